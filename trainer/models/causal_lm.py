"""Hugging Face causal language models over the joint vocabulary of words and items.

B examples, L input positions, V vocabulary, I items, D hidden, K of the items' vectors.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from trainer.config.language_model import LanguageModelConfig
from trainer.data.vocabulary import Vocabulary

# The final hidden states of a trained GPT-2 are long and alike: a row as wide as its own would
# start many nats up or down, the same everywhere. Not measured on real weights.
PRETRAINED_WIDTH = 0.1
YEAR = re.compile(r"\s*\(\d{4}\)$")


def build_causal_lm(
    config: LanguageModelConfig, vocabulary: Vocabulary, item_vectors_IK: Tensor | None = None
) -> PreTrainedModel:
    """A causal LM with one tied output row per vocabulary entry, drawn by torch's generator.

    A pretrained model keeps the rows that it has. A random one draws them from
    N(0, 1 / hidden_size): logits of unit variance at the start. GPT-2's .02 is for wider models;
    with 256 dimensions it cost a third of the steps to the same loss. Rows of items and special
    tokens: see `draw_new_rows_`.
    """
    if config.pretrained is None:
        model: PreTrainedModel = GPT2LMHeadModel(_random_gpt2_config(config, vocabulary))
        nn.init.normal_(output_weight(model), std=config.hidden_size**-0.5)
        _draw_new_rows_of_(model, config, vocabulary, item_vectors_IK, width=1.0)
    else:
        model = AutoModelForCausalLM.from_pretrained(config.pretrained, dtype=torch.float32)
        _check_base_size(model, config.pretrained, vocabulary)
        if output_weight(model).shape[0] == vocabulary.base_size:
            # mean_resizing=False: the new rows are ours to draw.
            model.resize_token_embeddings(vocabulary.size, mean_resizing=False)
            width = PRETRAINED_WIDTH
            _draw_new_rows_of_(model, config, vocabulary, item_vectors_IK, width=width)
        elif item_vectors_IK is not None:
            raise ValueError(
                "item_vectors must be null for a student whose model has the items' rows already, "
                f"got student.pretrained={config.pretrained}. Leave it out, or start from a model "
                "without them."
            )
    model.generation_config = GenerationConfig(
        eos_token_id=vocabulary.eos_id, pad_token_id=vocabulary.pad_id
    )
    check_head(model)
    if config.activation_checkpointing:
        enable_checkpointing(model)
    # from_pretrained leaves a model without its dropout.
    nn.Module.train(model)
    return model


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Let layers keep their inputs alone."""
    # Renamed within transformers 5: where there is a new name, the old one warns.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    # Not reentrant: what DeepSpeed's hooks at ZeRO-3 and inputs without gradient ask for.
    enable({"use_reentrant": False})


def _draw_new_rows_of_(
    model: PreTrainedModel,
    config: LanguageModelConfig,
    vocabulary: Vocabulary,
    item_vectors_IK: Tensor | None,
    *,
    width: float,
) -> None:
    weights = [output_weight(model)]
    embedding = model.get_input_embeddings().weight
    if embedding is not weights[0]:
        assert isinstance(embedding, Tensor)
        weights.append(embedding)
    for weight_VD in weights:
        draw_new_rows_(
            weight_VD, vocabulary, item_vectors_IK, width=width, new_rows=config.new_rows
        )


@torch.no_grad()
def draw_new_rows_(
    weight_VD: Tensor,
    vocabulary: Vocabulary,
    item_vectors_IK: Tensor | None = None,
    *,
    width: float,
    new_rows: Literal["random", "titles"] = "random",
) -> None:
    """Draw the rows after the base tokens around their mean, `width` times as wide as they are.

    Items get one more draw that all of them share. "A movie comes here" is then one direction,
    learnt from every item step at once, and not anew for each of thousands of rarely seen rows: on
    redial-mini 150 steps gave the gold items' steps an item mass of .31 with it and .09 without.
    Their own part must be as wide: taught the recommendation teacher's rows at item steps alone, a
    student with a fifth of it did not tell the context's movies apart in 300 steps of 64 and stayed
    .97 nats from the teacher (its mean row: 1.06); with the whole of it, .67 after 250.

    Args:
        item_vectors_IK: float [I, K], the items' own part up to a turn and the width, so that films
            which are close there are close here; None: as new_rows says.
        new_rows: without vectors, the items' own part: random, or how the mean row of a title's
            tokens differs from other titles', up to the width.
    """
    base_VD = weight_VD[: vocabulary.base_size]
    mean_D = base_VD.mean(0)
    std = width * float((base_VD - mean_D).square().mean().sqrt())
    items_ID = weight_VD[vocabulary.first_item_id : vocabulary.rec_id]
    if item_vectors_IK is not None:
        items_ID.copy_(_turned(item_vectors_IK, weight_VD.shape[1], std))
    elif new_rows == "titles":
        items_ID.copy_(_scaled(title_means(base_VD, vocabulary), std))
    else:
        items_ID.normal_(std=std)
    items_ID.add_(mean_D + torch.randn_like(mean_D) * std)
    weight_VD[vocabulary.rec_id :].normal_(std=std).add_(mean_D)


def _turned(vectors_IK: Tensor, hidden_size: int, std: float) -> Tensor:
    """The vectors about their mean in a random basis of D dimensions, elements of this width.

    Inner products keep their proportions if D >= K, and do on average if not.
    """
    basis_KD = nn.init.orthogonal_(torch.empty(vectors_IK.shape[1], hidden_size))
    return _scaled((vectors_IK - vectors_IK.mean(0)) @ basis_KD, std)


def title_means(base_VD: Tensor, vocabulary: Vocabulary) -> Tensor:
    """The mean base row of each item's title without its year, float [I, D]."""
    # As in the middle of a sentence, where films are named: with a space before.
    titles = [" " + YEAR.sub("", title) for title in vocabulary.titles]
    rows = vocabulary.tokenizer(titles, add_special_tokens=False)["input_ids"]
    # A tokenizer may have no token for a title; then it is like any other.
    return torch.stack([base_VD[ids or slice(None)].mean(0) for ids in rows])


def _scaled(vectors_ID: Tensor, std: float) -> Tensor:
    """The vectors about their mean, elements of this width."""
    vectors_ID = vectors_ID - vectors_ID.mean(0)
    width = float(vectors_ID.square().mean().sqrt())
    if not (math.isfinite(width) and width > 0):
        raise ValueError(
            f"item vectors must be finite and differ from each other, got a width of {width}. Fit "
            "the recommendation teacher again."
        )
    return vectors_ID * (std / width)


def load_causal_lm(folder: Path, vocabulary: Vocabulary) -> PreTrainedModel:
    """An exported model, refused unless it has exactly the vocabulary's rows."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} must be a model folder, got no config.json there.")
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    if output_weight(model).shape[0] != vocabulary.size:
        raise ValueError(
            f"the model in {folder} must have {vocabulary.size} output rows, got "
            f"{output_weight(model).shape[0]}. Use the vocabulary it was trained with."
        )
    check_head(model)
    return model


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are not hidden @ weight^T: soft caps, scales, biases.

    The fused loss and the served teachers take them for that.
    """
    ids_BL = torch.tensor([[1, 3, 2]], device=model.device)
    was_training = model.training
    nn.Module.train(model, False)
    logits_BLV = model(input_ids=ids_BL, use_cache=False).logits
    product_BLV = output_head(model)(hidden_states(model, ids_BL))
    nn.Module.train(model, was_training)
    if not torch.allclose(logits_BLV, product_BLV, rtol=1e-3, atol=1e-4):
        raise ValueError(
            f"{type(model).__name__} must compute logits as hidden states times output weight, got "
            f"a difference of {float((logits_BLV - product_BLV).abs().max()):.3g}. Use a model "
            "without a soft cap or scale on its logits."
        )


def hidden_states(model: PreTrainedModel, input_ids_BL: Tensor) -> Tensor:
    """Last hidden states [B, L, D] of right-padded input.

    No mask is passed: under causal attention a pad to the right is seen by no position that counts.
    """
    return model.base_model(input_ids=input_ids_BL, use_cache=False).last_hidden_state


def output_head(model: PreTrainedModel) -> nn.Linear:
    """The output projection; refused if it has a bias, which the fused loss does not know."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise ValueError(
            f"the language model's output layer must be a linear layer without bias, got {head}."
        )
    return head


def output_weight(model: PreTrainedModel) -> Tensor:
    """The (tied) output weight [V, D]."""
    return output_head(model).weight


def max_input_length(model: PreTrainedModel) -> int:
    """Positions that the model can attend to; ValueError if its config does not say."""
    length = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(length, int):
        raise ValueError(
            f"the config of {type(model).__name__} must give max_position_embeddings, got "
            f"{length}. Use a model with a fixed number of positions."
        )
    return length


def _random_gpt2_config(config: LanguageModelConfig, vocabulary: Vocabulary) -> GPT2Config:
    return GPT2Config(
        vocab_size=vocabulary.size,
        n_positions=config.max_positions,
        n_embd=config.hidden_size,
        n_layer=config.num_layers,
        n_head=config.num_heads,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        bos_token_id=vocabulary.eos_id,
        eos_token_id=vocabulary.eos_id,
    )


def _check_base_size(model: PreTrainedModel, name: str, vocabulary: Vocabulary) -> None:
    rows = output_weight(model).shape[0]
    if rows not in (vocabulary.base_size, vocabulary.size):
        raise ValueError(
            f"{name} must have the tokenizer's {vocabulary.base_size} base tokens, got {rows} "
            "rows. Prepare the data with this model's own tokenizer (--tokenizer)."
        )
