"""All teachers in the student's own process: what users do today, and the served loss's twin."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import torch

from protos.target_rows import TargetRows, Targets
from teacher_server.scoring.kinds import load_teacher
from trainer.config.distill import DistillConfig
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits, merge_sequences
from trainer.kinds.table import TEACHER_KINDS
from trainer.teacher_client.handshake import name_of
from trainer.telemetry.client_counters import ClientCounters


class InProcessTeachers:
    """Answers as the served teachers do, without a wire."""

    def __init__(self, folders: Mapping[str, Path], distill: DistillConfig) -> None:
        """Load the frozen teacher of each kind."""
        self.counters = ClientCounters()
        self.kinds = {name: kind for name, kind in TEACHER_KINDS.items() if name in folders}
        device = torch.device("cpu")
        if torch.cuda.is_available():
            # The rank's own, as set by the launcher.
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        self._teachers = {kind: load_teacher(kind, folders[kind], device) for kind in self.kinds}
        self._distill = distill

    @property
    def identity(self) -> dict[str, str]:
        """Kind -> weights digest, dtype and temperature."""
        return {kind: name_of(it.description) for kind, it in self._teachers.items()}

    @property
    def limits(self) -> dict[str, InputLimits]:
        """Kind -> what its teacher takes of an example."""
        return {kind: InputLimits.of(it.description) for kind, it in self._teachers.items()}

    def submit(self, examples: Sequence[Example], temperature: float = 1.0) -> Future[Targets]:
        """Score at once, on the training thread: nothing overlaps in one process."""
        answer: Future[Targets] = Future()
        answer.set_result(
            {kind: self._score(kind, examples, temperature) for kind in self._teachers}
        )
        return answer

    def close(self) -> None:
        """Nothing is held."""

    def _score(self, kind: str, examples: Sequence[Example], temperature: float) -> TargetRows:
        """A teacher's rows, cut as the config says."""
        teacher, of_kind = self._teachers[kind], self.kinds[kind]
        limits = InputLimits.of(teacher.description)
        inputs = [
            replace(of_kind.to_input(example, limits), temperature=temperature)
            for example in examples
        ]
        if limits.takes_ranges:
            inputs = merge_sequences(inputs)
        rows = teacher.score(inputs, of_kind.compression(self._distill, seed=0))
        self.counters.requests += 1
        if of_kind.rows_per == "position":
            self.counters.positions += rows.num_rows
            self.counters.teacher_tokens += sum(len(each.tokens) for each in inputs)
        return rows
