"""The dialogue teacher with its dense logits, with which served rows are compared.

P positions, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from protos.codec import TargetRows
from protos.teacher_pb2 import Compression
from teacher_server.scoring.compress import Support, compress
from teacher_server.scoring.teachers import draw_uniforms
from trainer.config.language_model import LanguageModelConfig
from trainer.data.examples import Example
from trainer.data.model_input import SequenceInput, collate, dialogue_input
from trainer.data.vocabulary import Vocabulary
from trainer.models.language_model import (
    LanguageModel,
    build_language_model,
    load_language_model,
)


@dataclass(frozen=True, eq=False)
class DialogueLogits:
    """What the teacher computed for one request.

    Attributes:
        inputs: the request's examples.
        labels_P: gold tokens, int64.
        hidden_PD: last hidden states, float32.
        logits_PV: float32.
    """

    inputs: tuple[SequenceInput, ...]
    labels_P: Tensor
    hidden_PD: Tensor
    logits_PV: Tensor


class TeacherLogits:
    """A dialogue teacher on the CPU."""

    def __init__(self, model: LanguageModel, vocabulary: Vocabulary) -> None:
        model.module.eval()
        self._model = model
        self._head = self._model.head
        self._limits = self._model.limits
        self._support = Support(
            vocab_size=vocabulary.size,
            first_id=0,
            first_item_column=vocabulary.first_item_id,
            num_items=vocabulary.num_items,
        )

    @classmethod
    def load(cls, folder: Path) -> TeacherLogits:
        """The frozen teacher of a folder."""
        vocabulary = Vocabulary.load(folder)
        return cls(load_language_model(folder, vocabulary), vocabulary)

    @classmethod
    def random(cls, vocabulary: Vocabulary, config: LanguageModelConfig) -> TeacherLogits:
        """One of a shape, with random weights: for its speed."""
        return cls(build_language_model(config, vocabulary), vocabulary)

    @torch.inference_mode()
    def score(self, examples: Sequence[Example]) -> DialogueLogits:
        """Logits at every response position of the examples, end to end."""
        inputs = tuple(dialogue_input(example, self._limits) for example in examples)
        hidden_PD = self._model.response_states(collate(inputs, pad_id=0))
        labels_P = torch.tensor([token for e in examples for token in e.response_ids.tolist()])
        return DialogueLogits(inputs, labels_P, hidden_PD, self._head(hidden_PD))

    @torch.inference_mode()
    def cut(self, scored: DialogueLogits, compression: Compression) -> TargetRows:
        """The rows that a served teacher would send."""
        return compress(
            scored.logits_PV,
            compression,
            support=self._support,
            uniforms_TN=draw_uniforms(scored.inputs, compression),
        )
