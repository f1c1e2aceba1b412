"""KGSF's transformer as a LanguageModel: built, run, written and read.

B examples, P wanted positions, S source positions, T response positions, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import LogitsProcessorList

from trainer.common.atomic import write_bytes
from trainer.common.errors import InputError
from trainer.config.language_model import LanguageModelConfig
from trainer.data.model_input import InputLimits, ModelInput, SequenceInput, collate
from trainer.data.vocabulary import Vocabulary
from trainer.models.frozen import CONFIG_NAME, REMEDY, WEIGHTS_NAME, read_shape, write_shape
from trainer.models.frozen_recommender import FrozenRecommender
from trainer.models.kg_transformer import KgTransformer, KgTransformerShape
from trainer.models.new_rows import draw_new_rows_
from trainer.models.placing import PLAIN, Placement, check_computes, place_
from trainer.models.room import check_fits, module_bytes
from trainer.models.weights import load_state, rebuild

# Tied to the embedding: one tensor, written once.
TIED = "head.weight"
PROBE_IDS = np.array([1, 3, 2], np.int32)


class KgLanguageModel:
    """KGSF's transformer as a LanguageModel."""

    def __init__(self, module: KgTransformer) -> None:
        self.module = module

    @property
    def head(self) -> nn.Linear:
        """The output projection, tied to the embedding."""
        return self.module.head

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    @property
    def limits(self) -> InputLimits:
        """Tokens with the response; entities and words if it has knowledge of them."""
        shape = self.module.shape
        if not shape.knowledge_size:
            return InputLimits(max_tokens=shape.max_positions)
        return InputLimits(
            max_tokens=shape.max_positions,
            max_entities=shape.max_entities,
            max_words=shape.max_words,
        )

    @property
    def knowledge_size(self) -> tuple[int, int]:
        """Entities and words that it knows."""
        return self.module.shape.num_entities, self.module.shape.num_words

    def response_states(self, inputs: ModelInput) -> Tensor:
        """Last hidden states of the wanted positions, examples end to end, float [P, D]."""
        return self.module.response_states(inputs)

    def write(self, folder: Path, whole: dict[str, Tensor]) -> None:
        """Write the weights, then the sizes that rebuild the module."""
        state = {k: t.contiguous().cpu() for k, t in whole.items() if k != TIED}
        write_bytes(folder / WEIGHTS_NAME, save(state))
        write_shape(folder, "kg-transformer", dataclasses.asdict(self.module.shape))

    def prompt_width(self, prompts: Sequence[SequenceInput]) -> int:
        """Columns before the response in what `generate` returns: what starts the decoder."""
        return prompts[0].num_rows

    def generate(
        self,
        prompts: Sequence[SequenceInput],
        vocabulary: Vocabulary,
        *,
        max_new_tokens: int,
        processors: LogitsProcessorList,
    ) -> Tensor:
        """Start tokens and greedy responses, int64 [B, S + T], ended by pads.

        The sources are read once; the response so far is read anew at every step, it is short.
        """
        module = self.module
        inputs = collate(prompts, pad_id=vocabulary.pad_id).to(module.device)
        memories = module.encode(inputs)
        # Of all prompts as many: the last token, and one more where the action was predicted.
        column_S = torch.arange(-self.prompt_width(prompts), 0, device=module.device)
        ids_BT = inputs.input_ids_BL.gather(1, inputs.lengths_B[:, None] + column_S)
        is_finished_B = torch.zeros(len(prompts), dtype=torch.bool, device=module.device)
        for _ in range(max_new_tokens):
            mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
            states_BTD = module.decode(ids_BT, mask_BT, memories)
            logits_BV: Any = module.head(states_BTD[:, -1])
            scores_BV: Any = processors(ids_BT, logits_BV)  # type: ignore[arg-type]
            next_B = scores_BV.argmax(-1).masked_fill(is_finished_B, vocabulary.pad_id)
            ids_BT = torch.cat([ids_BT, next_B[:, None]], dim=1)
            is_finished_B |= next_B == vocabulary.eos_id
            if is_finished_B.all():
                break
        return ids_BT


def build_kgsf(
    config: LanguageModelConfig,
    vocabulary: Vocabulary,
    item_vectors_IK: Tensor | None,
    knowledge: FrozenRecommender | None,
) -> KgLanguageModel:
    """A random transformer that attends to the knowledge's entities and words, if there is any.

    Raises:
        InputError: if the knowledge has no words.
    """
    if knowledge is not None and not knowledge.num_words:
        raise InputError(
            "knowledge must be a recommendation teacher with words, got one without. "
            "Fit it on data with word relations."
        )
    model = KgTransformer(
        _shape(config, vocabulary, knowledge),
        entities_NK=None if knowledge is None else knowledge.entities_ND.clone(),
        words_WK=None if knowledge is None else knowledge.words_WD.clone(),
        dropout=config.dropout,
        activation_checkpointing=config.activation_checkpointing,
    )
    draw_new_rows_(model.head.weight, vocabulary, item_vectors_IK, width=1.0)
    return KgLanguageModel(model)


def load_kgsf(
    folder: Path, vocabulary: Vocabulary, placement: Placement = PLAIN
) -> KgLanguageModel:
    """An exported model; ValueError unless it has exactly the vocabulary's rows."""
    sizes = read_shape(folder, "kg-transformer")
    names = {field.name for field in dataclasses.fields(KgTransformerShape)}
    if set(sizes) != names:
        raise InputError(
            f"{folder / CONFIG_NAME} must give {sorted(names)}, got {sorted(sizes)}. {REMEDY}"
        )
    shape = KgTransformerShape(**sizes)
    if shape.vocab_size != vocabulary.size:
        raise InputError(
            f"the model in {folder} must have {vocabulary.size} output rows, got "
            f"{shape.vocab_size}. Use the vocabulary it was trained with."
        )
    check_fits(f"the model of {folder / CONFIG_NAME}", _bytes_of(shape))
    with torch.device("meta"):
        model = rebuild(folder / CONFIG_NAME, lambda: _empty_transformer(shape))
    expected = {k: tuple(t.shape) for k, t in model.state_dict().items() if k != TIED}
    state = load_state(folder / WEIGHTS_NAME, expected)
    model.load_state_dict({**state, TIED: state["tokens.weight"]}, assign=True)
    # Two tensors of the same memory by now.
    model.head.weight = model.tokens.weight
    # Each tensor's map of the file must end with it.
    del state
    place_(model, placement, folder)
    with torch.no_grad():
        check_computes(placement, folder, lambda: model.response_states(_probe(placement.device)))
    return KgLanguageModel(model)


def _probe(device: torch.device) -> ModelInput:
    """One short example without entities and words."""
    return collate([SequenceInput.at_end(num_rows=1, tokens=PROBE_IDS)], pad_id=0).to(device)


def _empty_transformer(shape: KgTransformerShape) -> KgTransformer:
    vectors = None, None
    if shape.knowledge_size:
        size = shape.knowledge_size
        vectors = torch.empty(shape.num_entities, size), torch.empty(shape.num_words, size)
    return KgTransformer(shape, entities_NK=vectors[0], words_WK=vectors[1])


def kgsf_bytes(config: LanguageModelConfig, vocabulary: Vocabulary) -> float:
    """Bytes of the weights of a random model, without what it knows."""
    return _bytes_of(_shape(config, vocabulary, None))


def _bytes_of(shape: KgTransformerShape) -> float:
    plain = dataclasses.replace(shape, knowledge_size=0)
    return module_bytes(
        lambda layers: KgTransformer(dataclasses.replace(plain, num_layers=layers)),
        shape.num_layers,
    )


def _shape(
    config: LanguageModelConfig, vocabulary: Vocabulary, knowledge: FrozenRecommender | None
) -> KgTransformerShape:
    return KgTransformerShape(
        vocab_size=vocabulary.size,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        max_positions=config.max_positions,
        knowledge_size=0 if knowledge is None else knowledge.entities_ND.shape[1],
        num_entities=0 if knowledge is None else knowledge.num_entities,
        num_words=0 if knowledge is None else knowledge.num_words,
        max_entities=config.max_entities,
        max_words=config.max_words,
    )
