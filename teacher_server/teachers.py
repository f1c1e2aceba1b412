"""Frozen teachers: a batch of inputs -> compressed next-token or item distributions. Torch only.

B examples, L input length, T wanted rows, V vocabulary, I items, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from protos.codec import TargetRows, concat_rows
from teacher_server.compress import Cut, Support, compress, normalise
from teacher_server.facts import Teacher, TeacherFacts, TeacherInput
from trainer.data.vocabulary import Vocabulary
from trainer.models.causal_lm import hidden_states, load_causal_lm, max_input_length, output_head
from trainer.models.frozen import FrozenCard, read_card
from trainer.models.frozen_recommender import Bags, FrozenRecommender, load_recommender

# Logits exist for this many positions at a time: 256 x 57,184 float32 are 59 MB.
CHUNK_POSITIONS = 256


class DialogueTeacher:
    """P_phi(next token | context and response so far), over words and items."""

    def __init__(self, model: PreTrainedModel, facts: TeacherFacts, device: torch.device) -> None:
        self.facts = facts
        self._device = device
        nn.Module.to(model, device)
        self._model = model.eval().requires_grad_(False)
        self._head = output_head(model)
        self._support = Support(
            vocab_size=facts.vocab_size,
            first_id=0,
            first_item_column=facts.first_item_id,
            num_items=facts.num_items,
        )

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> DialogueTeacher:
        """The frozen folder's teacher; raises as read_card and load_causal_lm do."""
        card = read_card(folder, "dialogue")
        vocabulary = Vocabulary.load(folder)
        model = load_causal_lm(folder, vocabulary)
        facts = _facts(card, vocabulary, min(card.max_input_length, max_input_length(model)))
        return cls(model, facts, device)

    @torch.inference_mode()
    def score(self, inputs: Sequence[TeacherInput], cut: Cut) -> TargetRows:
        """The next-token distributions at the last num_targets positions of each input.

        Inputs are right-padded into one device batch; under causal attention no wanted position
        sees a pad, so the rows do not depend on what else is in the batch.
        """
        input_ids_BL = _pad([example.ids for example in inputs], self._device)
        hidden_BLD = hidden_states(self._model, input_ids_BL)
        example_T, position_T = _wanted_positions(inputs)
        hidden_TD = hidden_BLD[example_T.to(self._device), position_T.to(self._device)]
        return concat_rows(
            [
                compress(
                    normalise(self._head(chunk_TD), self.facts.temperature),
                    cut,
                    support=self._support,
                )
                for chunk_TD in hidden_TD.split(CHUNK_POSITIONS)
            ]
        )


class RecommendationTeacher:
    """P_psi(item | entities and words so far): one row over the items per example."""

    def __init__(
        self, recommender: FrozenRecommender, facts: TeacherFacts, device: torch.device
    ) -> None:
        self.facts = facts
        self._device = device
        self._recommender = recommender.to(device).eval().requires_grad_(False)
        self._support = Support(
            vocab_size=facts.vocab_size,
            first_id=facts.first_item_id,
            first_item_column=0,
            num_items=facts.num_items,
        )

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> RecommendationTeacher:
        """The frozen folder's teacher; raises as load_recommender does."""
        recommender, card = load_recommender(folder)
        return cls(
            recommender, _facts(card, Vocabulary.load(folder), card.max_input_length), device
        )

    @torch.inference_mode()
    def score(self, inputs: Sequence[TeacherInput], cut: Cut) -> TargetRows:
        """One row per input, ids being vocabulary ids; an input may have no entity at all."""
        entities = Bags.of([example.ids for example in inputs], self._device)
        words = Bags.of([example.words for example in inputs], self._device)
        log_probs_BI = self._recommender(entities, words)
        return compress(normalise(log_probs_BI, self.facts.temperature), cut, support=self._support)


def load_teacher(kind: str, folder: Path, device: torch.device) -> Teacher:
    """The frozen teacher of a folder, on the device."""
    if kind == "dialogue":
        return DialogueTeacher.load(folder, device)
    if kind == "recommendation":
        return RecommendationTeacher.load(folder, device)
    raise ValueError(f"kind must be dialogue or recommendation, got {kind}.")


def _facts(card: FrozenCard, vocabulary: Vocabulary, longest: int) -> TeacherFacts:
    if card.vocabulary_digest != vocabulary.digest:
        raise ValueError(
            f"the {card.kind} teacher's vocabulary must have digest {card.vocabulary_digest}, got "
            f"{vocabulary.digest}. The folder's files do not belong together; export it again."
        )
    assert card.kind != "classifier"
    return TeacherFacts(
        kind=card.kind,
        vocab_size=vocabulary.size,
        first_item_id=vocabulary.first_item_id,
        num_items=vocabulary.num_items,
        max_input_length=longest,
        vocabulary_digest=card.vocabulary_digest,
        weights_digest=card.weights_digest,
        graph_digest=card.graph_digest,
        num_entities=card.num_entities,
        num_words=card.num_words,
        max_words=card.max_words,
        temperature=card.temperature,
    )


def _pad(rows: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """int64 [B, L], padded on the right with id 0; L is at least 1."""
    padded_BL = np.zeros((len(rows), max(1, *(len(row) for row in rows))), dtype=np.int64)
    for padded_L, row in zip(padded_BL, rows, strict=True):
        padded_L[: len(row)] = row
    return torch.from_numpy(padded_BL).to(device)


def _wanted_positions(inputs: Sequence[TeacherInput]) -> tuple[Tensor, Tensor]:
    """Example index and position of each wanted row, both int64 [T]."""
    num_targets = [example.num_targets for example in inputs]
    example_T = np.repeat(np.arange(len(inputs)), num_targets)
    position_T = np.concatenate(
        [np.arange(len(each.ids) - each.num_targets, len(each.ids)) for each in inputs]
    )
    return torch.from_numpy(example_T), torch.from_numpy(position_T)
