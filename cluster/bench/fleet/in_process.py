"""Both teachers in the student's own process: what users do today, and the served loss's twin."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import torch

from protos.target_rows import TeacherTargets
from teacher_server.scoring.compress import Cut
from teacher_server.scoring.teachers import DialogueTeacher, RecommendationTeacher
from trainer.config.distill import DistillConfig
from trainer.data.examples import Example
from trainer.data.model_input import dialogue_input, recommendation_input
from trainer.telemetry.client_counters import ClientCounters


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
            facts.kind: f"{facts.weights_digest} at temperature {facts.temperature:g}"
            for facts in (self._dialogue.facts, self._recommendation.facts)
        }

    @property
    def max_tokens(self) -> int:
        """Longest input of one example that the dialogue teacher takes."""
        return self._dialogue.facts.limits.max_tokens

    def submit(self, examples: Sequence[Example]) -> Future[TeacherTargets]:
        """Score at once, on the training thread: nothing overlaps in one process."""
        answer: Future[TeacherTargets] = Future()
        answer.set_result(self.score(examples))
        return answer

    def close(self) -> None:
        """Nothing is held."""

    def score(self, examples: Sequence[Example]) -> TeacherTargets:
        """Both teachers' rows, cut as the config says."""
        dialogue = self._dialogue.score(
            [dialogue_input(e, self._dialogue.facts.limits) for e in examples],
            cut_of(self._distill, self._distill.top_k, 1.0),
        )
        recommendation = self._recommendation.score(
            [recommendation_input(e, self._recommendation.facts.limits) for e in examples],
            cut_of(
                self._distill,
                self._distill.recommendation_top_k,
                self._distill.recommendation_top_p,
            ),
        )
        self.counters.requests += 2
        self.counters.positions += dialogue.num_rows
        return TeacherTargets(dialogue=dialogue, recommendation=recommendation)


def cut_of(distill: DistillConfig, top_k: int, top_p: float) -> Cut:
    """The cut that a served teacher makes for these settings."""
    if distill.tail == "sampled":
        return Cut(samples=top_k)
    return Cut(top_k=top_k, top_p=top_p)
