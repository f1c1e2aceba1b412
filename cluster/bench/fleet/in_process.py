"""Both teachers in the student's own process: what users do today, and the served loss's twin."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from protos.target_rows import TeacherTargets
from protos.teacher_pb2 import Compression
from teacher_server.scoring.teachers import DialogueTeacher, RecommendationTeacher
from trainer.config.distill import DistillConfig
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits, dialogue_input, recommendation_input
from trainer.telemetry.client_counters import ClientCounters

ResultT = TypeVar("ResultT")
PreparedT = TypeVar("PreparedT")


@dataclass(frozen=True)
class PendingInProcess(Generic[ResultT]):
    """Scored when the step asks for it: nothing overlaps in one process."""

    score: Callable[[], ResultT]

    def then(self, prepare: Callable[[ResultT], PreparedT]) -> PendingInProcess[PreparedT]:
        """The same, with more to be done then."""
        return PendingInProcess(lambda: prepare(self.score()))

    def result(self) -> ResultT:
        """Score now."""
        return self.score()


class InProcessTeachers:
    """Answers as the served teachers do, without a wire."""

    def __init__(self, dialogue: Path, recommendation: Path, distill: DistillConfig) -> None:
        self.counters = ClientCounters()
        device = torch.device("cpu")
        if torch.cuda.is_available():
            # The rank's own, as set by the launcher.
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        self._dialogue = DialogueTeacher.load(dialogue, device)
        self._recommendation = RecommendationTeacher.load(recommendation, device)
        self._distill = distill

    @property
    def identity(self) -> dict[str, str]:
        """Kind -> weights digest and temperature."""
        return {
            it.kind: f"{it.weights_digest} at temperature {it.temperature:g}"
            for it in (self._dialogue.description, self._recommendation.description)
        }

    @property
    def max_tokens(self) -> int:
        """Longest input of one example that the dialogue teacher takes."""
        return self._dialogue.description.max_tokens

    def submit(self, examples: Sequence[Example]) -> PendingInProcess[TeacherTargets]:
        """Remember the question."""
        return PendingInProcess(functools.partial(self.score, tuple(examples)))

    def close(self) -> None:
        """Nothing is held."""

    def score(self, examples: Sequence[Example]) -> TeacherTargets:
        """Both teachers' rows, cut as the config says."""
        dialogue = self._dialogue.score(
            [dialogue_input(e, InputLimits.of(self._dialogue.description)) for e in examples],
            cut_of(self._distill, self._distill.top_k, 1.0),
        )
        limits = InputLimits.of(self._recommendation.description)
        recommendation = self._recommendation.score(
            [recommendation_input(e, limits) for e in examples],
            cut_of(
                self._distill,
                self._distill.recommendation_top_k,
                self._distill.recommendation_top_p,
            ),
        )
        self.counters.requests += 2
        self.counters.positions += dialogue.num_rows
        return TeacherTargets(dialogue=dialogue, recommendation=recommendation)


def cut_of(distill: DistillConfig, top_k: int, top_p: float) -> Compression:
    """The cut that a served teacher makes for these settings."""
    if distill.tail == "sampled":
        return Compression(samples=top_k)
    return Compression(top_k=top_k, top_p=top_p)
