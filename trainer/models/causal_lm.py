"""Hugging Face causal language models over the joint vocabulary of words and items.

B examples, L input positions, V vocabulary, I items, D hidden, K of the items' vectors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessorList,
    PreTrainedModel,
)

from trainer.common.atomic import share_as_umask_says
from trainer.common.errors import InputError, MachineError, MissingError, first_line
from trainer.config.language_model import LanguageModelConfig
from trainer.data.model_input import InputLimits, ModelInput, SequenceInput
from trainer.data.vocabulary import VOCABULARY_NAME, Vocabulary
from trainer.models.causal_reading import read_exported, read_pretrained
from trainer.models.frozen import CONFIG_NAME, REMEDY
from trainer.models.new_rows import draw_new_rows_
from trainer.models.placing import PLAIN, Placement, check_computes, place_
from trainer.models.room import module_bytes
from trainer.models.spreading import device_map, join_
from trainer.models.weights import rebuild

# The final hidden states of a trained GPT-2 are long and alike: a row as wide as its own would
# start many nats up or down, the same everywhere. Not measured on real weights.
PRETRAINED_WIDTH = 0.1
# Models round the number of their rows up, to multiples of 64 to 512.
MAX_PADDING_ROWS = 1024
PROBE_IDS = (1, 3, 2)
"""Of a forward that only shows how a model computes."""
MAX_RESPONSE_TOKENS = 30
"""Of a generated response, its end of text included."""


class CausalLanguageModel:
    """A causal language model of Hugging Face as a LanguageModel."""

    knowledge_size = (0, 0)

    def __init__(self, module: PreTrainedModel) -> None:
        """Refuse a model whose logits the fused loss would not compute."""
        check_head(module)
        self.module = module

    @property
    def head(self) -> nn.Linear:
        """The output projection, without bias."""
        return output_head(self.module)

    @property
    def device(self) -> torch.device:
        """Where the weights are; if on several, the inputs'."""
        return self.module.device

    @property
    def limits(self) -> InputLimits:
        """Tokens with the responses, wherever they are; neither entities nor words."""
        return InputLimits(max_tokens=max_input_length(self.module), takes_ranges=True)

    def response_states(self, inputs: ModelInput) -> Tensor:
        """Last hidden states of the wanted positions, examples end to end, float [P, D]."""
        hidden_BLD = hidden_states(self.module, inputs.input_ids_BL)
        index_P = inputs.hidden_index_P.to(hidden_BLD.device)
        return hidden_BLD.flatten(0, 1).index_select(0, index_P)

    def write(self, folder: Path, whole: dict[str, Tensor]) -> None:
        """Write a folder of Hugging Face's; OSError if it could not be written."""
        try:
            self.module.save_pretrained(folder, state_dict=whole)
            # safetensors makes its files for their owner alone.
            for path in folder.glob("*.safetensors"):
                share_as_umask_says(path)
        except SafetensorError as error:
            # That of a full disk, too, is no OSError.
            raise MachineError(
                f"{folder} must take the model, got: {first_line(error)}. Make room and start the "
                "same command again."
            ) from error

    def prompt_width(self, prompts: Sequence[SequenceInput]) -> int:
        """Columns before the response in what `generate` returns: the longest prompt's."""
        return max(len(prompt.tokens) for prompt in prompts)

    def generate(
        self,
        prompts: Sequence[SequenceInput],
        vocabulary: Vocabulary,
        *,
        max_new_tokens: int,
        processors: LogitsProcessorList,
    ) -> Tensor:
        """Prompts and greedy responses, int64 [B, prompt_width + T], ended by pads."""
        input_ids_BL, mask_BL = _left_pad(prompts, vocabulary.pad_id)
        device = self.module.device
        # Any: pyright cannot bind `generate` to its self protocol.
        module: Any = self.module
        return module.generate(
            input_ids_BL.to(device),
            attention_mask=mask_BL.to(device),
            generation_config=GenerationConfig(
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=vocabulary.eos_id,
                pad_token_id=vocabulary.pad_id,
            ),
            logits_processor=processors,
        )


def build_causal_lm(
    config: LanguageModelConfig, vocabulary: Vocabulary, item_vectors_IK: Tensor | None = None
) -> CausalLanguageModel:
    """A causal LM with one tied output row per vocabulary entry, drawn by torch's generator.

    A pretrained model keeps the rows that it has. A random one draws them from
    N(0, 1 / hidden_size): logits of unit variance at the start. GPT-2's .02 is for wider models;
    with 256 dimensions it cost a third of the steps to the same loss. Rows of items and special
    tokens: see `draw_new_rows_`.
    """
    model = (
        _random(config, vocabulary, item_vectors_IK)
        if config.pretrained is None
        else _started(config.pretrained, vocabulary, item_vectors_IK)
    )
    _set_token_ids(model, vocabulary)
    causal = CausalLanguageModel(model)
    if config.activation_checkpointing:
        enable_checkpointing(model)
    # from_pretrained leaves a model without its dropout.
    nn.Module.train(model)
    return causal


def _random(
    config: LanguageModelConfig, vocabulary: Vocabulary, item_vectors_IK: Tensor | None
) -> PreTrainedModel:
    model = GPT2LMHeadModel(_random_gpt2_config(config, vocabulary))
    nn.init.normal_(output_weight(model), std=config.hidden_size**-0.5)
    _draw_new_rows_of_(model, vocabulary, item_vectors_IK, width=1.0)
    return model


def _started(name: str, vocabulary: Vocabulary, item_vectors_IK: Tensor | None) -> PreTrainedModel:
    """A pretrained model with a row for each entry of the vocabulary."""
    model = read_pretrained(name)
    # A config may be well formed, and its model fail in its first forward.
    rebuild(Path(name) / CONFIG_NAME, lambda: check_head(model))
    if not _has_items(model, name, vocabulary):
        # Padding rows go: a token that nobody can say must not win any mass.
        # mean_resizing=False: the new rows are ours to draw.
        model.resize_token_embeddings(vocabulary.size, mean_resizing=False)
        _draw_new_rows_of_(model, vocabulary, item_vectors_IK, width=PRETRAINED_WIDTH)
    elif item_vectors_IK is not None:
        raise InputError(
            "item_vectors must be null for a student whose model has the items' rows already, "
            f"got student.pretrained={name}. Leave it out, or start from a model without them."
        )
    return model


def _set_token_ids(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Let a program that knows the folder alone generate as we do: the same ends, and no more."""
    model.config.bos_token_id = model.config.eos_token_id = vocabulary.eos_id
    model.config.pad_token_id = vocabulary.pad_id
    model.generation_config = GenerationConfig(
        max_new_tokens=MAX_RESPONSE_TOKENS,
        do_sample=False,
        suppress_tokens=[vocabulary.rec_id, vocabulary.gen_id, vocabulary.pad_id],
        bos_token_id=vocabulary.eos_id,
        eos_token_id=vocabulary.eos_id,
        pad_token_id=vocabulary.pad_id,
    )


def causal_lm_bytes(config: LanguageModelConfig, vocabulary: Vocabulary) -> float:
    """Bytes of the weights of a random model."""
    return module_bytes(
        lambda layers: GPT2LMHeadModel(
            _random_gpt2_config(dataclasses.replace(config, num_layers=layers), vocabulary)
        ),
        config.num_layers,
    )


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Let layers keep their inputs alone."""
    # Renamed within transformers 5: where there is a new name, the old one warns.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    # Not reentrant: what DeepSpeed's hooks at ZeRO-3 and inputs without gradient ask for.
    enable({"use_reentrant": False})


def _draw_new_rows_of_(
    model: PreTrainedModel, vocabulary: Vocabulary, item_vectors_IK: Tensor | None, *, width: float
) -> None:
    weights = [output_weight(model)]
    embedding = model.get_input_embeddings().weight
    if embedding is not weights[0]:
        assert isinstance(embedding, Tensor)
        weights.append(embedding)
    for weight_VD in weights:
        draw_new_rows_(weight_VD, vocabulary, item_vectors_IK, width=width)


def load_causal_lm(
    folder: Path, vocabulary: Vocabulary, placement: Placement = PLAIN
) -> CausalLanguageModel:
    """An exported model, refused unless it has exactly the vocabulary's rows."""
    if not (folder / CONFIG_NAME).is_file():
        raise MissingError(f"{folder} must be a model folder, got no config.json there. {REMEDY}")
    model = read_exported(folder)
    if output_weight(model).shape[0] != vocabulary.size:
        raise InputError(
            f"the model in {folder} must have {vocabulary.size} output rows, got "
            f"{output_weight(model).shape[0]}. Use the vocabulary it was trained with."
        )
    devices = (placement.device, *placement.further)
    placed = device_map(model, devices, folder)
    place_(model, placement, folder, placed)
    if placement.further:
        join_(model, placed, placement.device)
    ids_BL = torch.tensor([PROBE_IDS], device=placement.device)
    with torch.no_grad():
        check_computes(placement, folder, lambda: hidden_states(model, ids_BL))
    return rebuild(folder / CONFIG_NAME, lambda: CausalLanguageModel(model))


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are not hidden @ weight^T: soft caps, scales, biases.

    The fused loss and the served teachers take them for that.
    """
    ids_BL = torch.tensor([PROBE_IDS], device=model.device)
    was_training = model.training
    nn.Module.train(model, False)
    logits_BLV = model(input_ids=ids_BL, use_cache=False).logits
    product_BLV = output_head(model)(hidden_states(model, ids_BL)).to(logits_BLV.device)
    nn.Module.train(model, was_training)
    if not torch.allclose(logits_BLV, product_BLV, rtol=1e-3, atol=1e-4):
        raise InputError(
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
        raise InputError(
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
        raise InputError(
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


def _has_items(model: PreTrainedModel, name: str, vocabulary: Vocabulary) -> bool:
    """Whether a pretrained model has the rows of this vocabulary's items already.

    Raises:
        InputError: if its rows are neither this vocabulary's nor its base tokens', whose number
            many models round up.
    """
    rows = output_weight(model).shape[0]
    if (Path(name) / VOCABULARY_NAME).is_file():
        own = Vocabulary.load(Path(name))
        if own.digest != vocabulary.digest or rows != vocabulary.size:
            raise InputError(
                f"{name} must have the data's vocabulary {vocabulary.digest}, got {own.digest} "
                f"and {rows} rows. Start from a model of the same data, or prepare that one."
            )
        return True
    base_size = vocabulary.base_size
    if not base_size <= rows <= base_size + MAX_PADDING_ROWS:
        raise InputError(
            f"{name} must have a row for each of the tokenizer's {base_size} tokens, and at most "
            f"{MAX_PADDING_ROWS} beyond, got {rows} rows. Prepare the data with this model's own "
            "tokenizer (--tokenizer)."
        )
    return False


def _left_pad(prompts: Sequence[SequenceInput], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts [B, L] int64 ending in the last column, and their mask [B, L] int64."""
    width = max(len(prompt.tokens) for prompt in prompts)
    input_ids_BL = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    mask_BL = torch.zeros_like(input_ids_BL)
    for row, prompt in enumerate(prompts):
        start = width - len(prompt.tokens)
        input_ids_BL[row, start:] = torch.from_numpy(prompt.tokens.astype(np.int64))
        mask_BL[row, start:] = 1
    return input_ids_BL, mask_BL
