"""How long a student's step and a teacher's row take on one core of this machine.

These are the lengths of the sleeps: in a cell nothing computes, so that two cores can stand for the
devices of many hosts. CPU seconds, not seconds: other programs of the machine do not lengthen them.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.bench.scaling.fixed_batch import fixed_parts, rows_of
from cluster.bench.scaling.grid import BATCH
from teacher_server.scoring.teachers import DialogueTeacher
from trainer.config.language_model import LanguageModelConfig
from trainer.config.run import RunConfig
from trainer.data.loader import to_student_input
from trainer.data.model_input import InputLimits, dialogue_input, merge_sequences
from trainer.data.prepared import PreparedData
from trainer.engine.student import Student
from trainer.kinds.names import DIALOGUE
from trainer.kinds.table import TEACHER_KINDS
from trainer.loss.conkd import hard_targets
from trainer.models.language_model import build_language_model, write_language_model
from trainer.pretrain.dialogue import write_dialogue_card

# trainer/configs/pretrain/dialogue-redial-mini.yaml, with random weights.
TEACHER = LanguageModelConfig(num_layers=3, hidden_size=128, num_heads=4, max_positions=320)
REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """What is slept, and what goes over the network."""

    step_s: float
    """Forward, backward and update of BATCH responses."""
    row_s: float
    """Forward and cut of one row of the teacher, in rounds of a micro-batch."""
    rows: int
    """Of BATCH responses."""
    num_parameters: int
    """Of the student."""
    bus_bytes_per_s: float = math.inf
    """Of a rank in the exchange alone, on the hosts; known once these run."""

    @property
    def load(self) -> float:
        """Share of a replica's time that one student takes."""
        return self.rows * self.row_s / self.step_s


def measure_lengths(config: RunConfig, data: PreparedData, teacher: Path) -> Lengths:
    """Lengths of the recipe's student and of the teacher in a folder, the least of some repeats."""
    parts = fixed_parts(data, BATCH)
    model = build_language_model(config.student, data.vocabulary)
    student = Student(model, loss_chunk_size=config.train.loss_chunk_size)
    optimiser = torch.optim.AdamW(student.parameters())
    inputs = [to_student_input(tuple(part), data.vocabulary, model.limits) for part in parts]

    def train() -> None:
        for part in inputs:
            loss_sum, *_ = student(part.model, hard_targets(part.positions))
            (loss_sum / BATCH).backward()
        optimiser.step()
        optimiser.zero_grad()

    frozen = DialogueTeacher.load(teacher, torch.device("cpu"))
    limits = InputLimits.of(frozen.description)
    asked = [merge_sequences([dialogue_input(it, limits) for it in part]) for part in parts]
    cut = TEACHER_KINDS[DIALOGUE].compression(config.distill, seed=0)
    rows = sum(map(rows_of, parts))
    with _one_thread():
        return Lengths(
            step_s=_least_cpu_s(train),
            row_s=_least_cpu_s(lambda: [frozen.score(part, cut) for part in asked]) / rows,
            rows=rows,
            num_parameters=sum(it.numel() for it in student.parameters()),
        )


def write_teacher(data: PreparedData, folder: Path) -> Path:
    """A frozen dialogue teacher with random weights: what it answers has the size of answers."""
    torch.manual_seed(0)
    model = build_language_model(TEACHER, data.vocabulary)
    write_language_model(folder, model)
    data.vocabulary.save(folder)
    write_dialogue_card(folder, model, data)
    return folder


def _least_cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of the quickest of REPEATS, after one that warms up."""
    work()
    found = []
    for _ in range(REPEATS):
        start_s = time.process_time()
        work()
        found.append(time.process_time() - start_s)
    return min(found)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
