"""Tables of recorded answers, for replicas that replay them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from cluster.bench.fleet.replay import key_of, record, save_answers
from protos.codec import TargetRows
from teacher_server.scoring.kinds import load_teacher
from trainer.config.distill import DistillConfig
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits
from trainer.kinds.table import TEACHER_KINDS


def record_kind(
    kind: str, folder: Path, examples: Sequence[Example], distill: DistillConfig, table: Path
) -> tuple[list[str], dict[str, TargetRows]]:
    """Score examples into a table; the key of every example, and all rows by key."""
    teacher, of_kind = load_teacher(kind, folder, torch.device("cpu")), TEACHER_KINDS[kind]
    inputs = [
        of_kind.to_input(example, InputLimits.of(teacher.description)) for example in examples
    ]
    answers = record(teacher, inputs, of_kind.compression(distill, seed=0))
    save_answers(table, answers)
    return [key_of(each) for each in inputs], answers
