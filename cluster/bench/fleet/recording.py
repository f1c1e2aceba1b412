"""Tables of recorded answers, for replicas that replay them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from cluster.bench.fleet.in_process import cut_of
from cluster.bench.fleet.replay import key_of, record, save_answers
from protos.codec import TargetRows
from protos.teacher_pb2 import Compression
from teacher_server.scoring.description import Teacher
from teacher_server.scoring.teachers import load_teacher
from trainer.config.distill import DistillConfig
from trainer.data.examples import Example
from trainer.data.model_input import (
    ExampleInput,
    InputLimits,
    dialogue_input,
    recommendation_input,
)


def record_kind(
    kind: str, folder: Path, examples: Sequence[Example], distill: DistillConfig, table: Path
) -> tuple[list[str], dict[str, TargetRows]]:
    """Score examples into a table; the key of every example, and all rows by key."""
    teacher = load_teacher(kind, folder, torch.device("cpu"))
    inputs = _inputs(teacher, examples)
    answers = record(teacher, inputs, _cut(kind, distill))
    save_answers(table, answers)
    return [key_of(each) for each in inputs], answers


def _inputs(teacher: Teacher, examples: Sequence[Example]) -> list[ExampleInput]:
    description = teacher.description
    to_input = dialogue_input if description.kind == "dialogue" else recommendation_input
    return [to_input(example, InputLimits.of(description)) for example in examples]


def _cut(kind: str, distill: DistillConfig) -> Compression:
    if kind == "dialogue":
        return cut_of(distill, distill.top_k, 1.0)
    return cut_of(distill, distill.recommendation_top_k, distill.recommendation_top_p)
