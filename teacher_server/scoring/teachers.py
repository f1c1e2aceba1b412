"""Frozen teachers: a batch of inputs -> compressed next-token or item distributions. Torch only.

B examples, T wanted rows, V vocabulary, I items, D hidden.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from protos.codec import TargetRows, concat_rows
from protos.teacher_pb2 import Compression, Description
from protos.temperatures import take_any_temperature
from teacher_server.scoring.compress import Support, compress
from teacher_server.scoring.counters import ReplicaCounters
from teacher_server.scoring.description import describe
from trainer.common.errors import InputError
from trainer.data.action_form import ACTIONS
from trainer.data.bags import Bags
from trainer.data.model_input import RANGES, InputLimits, SequenceInput, collate
from trainer.data.vocabulary import Vocabulary
from trainer.kinds.names import DIALOGUE, FLOAT32
from trainer.loss.products import multiply
from trainer.models.frozen import read_card
from trainer.models.frozen_recommender import FrozenRecommender, load_recommender
from trainer.models.placing import Placement

if TYPE_CHECKING:
    from trainer.models.language_model import LanguageModel

# Logits exist for this many positions at a time: 256 x 57,184 float32 are 59 MB.
CHUNK_POSITIONS = 256


class DialogueTeacher:
    """P_phi(next token | context and response so far), over words and items."""

    def __init__(
        self,
        model: LanguageModel,
        description: Description,
        *,
        counters: ReplicaCounters,
    ) -> None:
        self.description = description
        self._counters = counters
        model.module.eval().requires_grad_(False)
        self._model = model
        self._head = model.head
        # A model on several devices takes ids on its first, and has its head there or on its last.
        self._device = model.device
        self._head_device = model.head.weight.device
        # Rows of one that was fitted with action tokens are over words and items alone, as those of
        # any other: no row, and no gate, has to do with what it gives these tokens.
        items_end = description.first_item_id + description.num_items
        self._hidden = slice(items_end, None) if ACTIONS in description.capabilities else None
        self._support = Support(
            vocab_size=description.vocab_size,
            first_id=0,
            first_item_column=description.first_item_id,
            num_items=description.num_items,
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        device: torch.device,
        counters: ReplicaCounters | None = None,
        dtype: str = FLOAT32,
        further: Sequence[torch.device] = (),
    ) -> DialogueTeacher:
        """The frozen folder's teacher; raises as read_card and load_language_model do.

        Args:
            folder: of a dialogue teacher.
            device: of the inputs.
            counters: to add to.
            dtype: of weights and forward.
            further: devices over which its layers spread, too.
        """
        # Here: the models of transformers take seconds, and a recommendation replica has none.
        from trainer.models.language_model import load_language_model

        card = read_card(folder, DIALOGUE)
        vocabulary = Vocabulary.load(folder)
        placement = Placement(device=device, dtype=dtype, further=tuple(further))
        model = load_language_model(folder, vocabulary, placement)
        description = describe(card, vocabulary, dtype)
        if model.limits.takes_ranges:
            description.capabilities.append(RANGES)
        take_any_temperature(description)
        # How it reads action tokens its card alone knows.
        limits = replace(InputLimits.of(description), actions=None)
        of_card = (limits, (card.num_entities, card.num_words))
        of_model = (model.limits, model.knowledge_size)
        if of_card != of_model:
            raise InputError(
                f"the card of {folder} must give the model's limits {of_model}, got {of_card}. "
                "Export the teacher again."
            )
        return cls(model, description, counters=counters or ReplicaCounters())

    @torch.inference_mode()
    def score(self, inputs: Sequence[SequenceInput], compression: Compression) -> TargetRows:
        """The next-token distributions at the wanted positions of each input.

        No wanted position sees a pad, so the rows do not depend on what else is in the batch.
        """
        hidden_TD = self._model.response_states(collate(inputs, pad_id=0).to(self._device))
        hidden_TD = hidden_TD.to(self._head_device)
        uniforms_TN = draw_uniforms(inputs, compression)
        asked_T = asked_temperatures(inputs)
        parts = []
        for start in range(0, len(hidden_TD), CHUNK_POSITIONS):
            chunk = slice(start, start + CHUNK_POSITIONS)
            logits_TV = self._logits(hidden_TD[chunk])
            if self._hidden is not None:
                logits_TV[:, self._hidden] = -torch.inf
            with _counted(self._counters, self._head_device):
                parts.append(
                    compress(
                        logits_TV,
                        compression,
                        support=self._support,
                        temperature=self.description.temperature,
                        asked_T=asked_T[chunk],
                        uniforms_TN=uniforms_TN[chunk],
                    )
                )
        return concat_rows(parts)

    def _logits(self, hidden_TD: Tensor) -> Tensor:
        """Float32 [T, V] from states of the teacher's own type: products of half precision are
        accumulated in float32 and never rounded to half."""
        if hidden_TD.dtype == torch.float32:
            return self._head(hidden_TD)
        size = (len(hidden_TD), self._support.vocab_size)
        logits_TV = torch.empty(size, device=self._head_device)
        multiply(hidden_TD, self._head.weight, logits_TV)
        return logits_TV


class RecommendationTeacher:
    """P_psi(item | entities and words so far): one row over the items per example."""

    def __init__(
        self,
        recommender: FrozenRecommender,
        description: Description,
        device: torch.device,
        *,
        counters: ReplicaCounters,
    ) -> None:
        self.description = description
        self._counters = counters
        self._device = device
        self._recommender = recommender.to(device).eval().requires_grad_(False)
        self._support = Support(
            vocab_size=description.vocab_size,
            first_id=description.first_item_id,
            first_item_column=0,
            num_items=description.num_items,
        )

    @classmethod
    def load(
        cls, folder: Path, device: torch.device, counters: ReplicaCounters | None = None
    ) -> RecommendationTeacher:
        """The frozen folder's teacher; raises as load_recommender does."""
        recommender, card = load_recommender(folder)
        description = describe(card, Vocabulary.load(folder))
        take_any_temperature(description)
        return cls(recommender, description, device, counters=counters or ReplicaCounters())

    @torch.inference_mode()
    def score(self, inputs: Sequence[SequenceInput], compression: Compression) -> TargetRows:
        """One row per input, ids being vocabulary ids; an input may have no entity at all."""
        entities = Bags.of([example.entities for example in inputs], self._device)
        words = Bags.of([example.words for example in inputs], self._device)
        scores_BI = self._recommender(entities, words)
        uniforms_BN = draw_uniforms(inputs, compression)
        with _counted(self._counters, self._device):
            return compress(
                scores_BI,
                compression,
                support=self._support,
                temperature=self.description.temperature,
                asked_T=asked_temperatures(inputs),
                uniforms_TN=uniforms_BN,
            )


@contextlib.contextmanager
def _counted(counters: ReplicaCounters, device: torch.device) -> Iterator[None]:
    """Add the device's time in here to compress_s; the body ends with its results on the host."""
    if device.type != "cuda":
        started_s = time.perf_counter()
        yield
        counters.compress_s += time.perf_counter() - started_s
        return
    # On the device's own clock: on ours the forward that is still running would be counted too.
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record(torch.cuda.current_stream(device))
    yield
    end.record(torch.cuda.current_stream(device))
    end.synchronize()
    counters.compress_s += begin.elapsed_time(end) / 1e3


def asked_temperatures(inputs: Sequence[SequenceInput]) -> np.ndarray:
    """The temperature of each wanted row, float64 [T]."""
    return np.repeat([each.temperature for each in inputs], [each.num_rows for each in inputs])


def draw_uniforms(inputs: Sequence[SequenceInput], compression: Compression) -> np.ndarray:
    """The draws of a Compression by samples, float64 [T, N] in [0, 1); N is 0 for any other.

    A function of the seed, of each response's own input and of its temperature alone: a response
    gives the same rows whenever, wherever and beside whatever it is scored, in one sequence with
    others too.
    """
    if not compression.samples:
        return np.empty((sum(each.num_rows for each in inputs), 0))
    return np.concatenate(
        [_draws_of(response, compression) for each in inputs for response in each.responses()]
    )


def _draws_of(each: SequenceInput, compression: Compression) -> np.ndarray:
    columns = (each.tokens, each.entities, each.words)
    content = [np.array([len(ids) for ids in columns]), *columns]
    digest = hashlib.blake2b(digest_size=16, key=compression.seed.to_bytes(8, "little"))
    digest.update(b"".join(ids.astype("<i4").tobytes() for ids in content))
    if each.temperature != 1.0:
        digest.update(np.array([each.temperature], "<f4").tobytes())
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(digest.digest(), "<u8")))
    return generator.random((each.num_rows, compression.samples))
