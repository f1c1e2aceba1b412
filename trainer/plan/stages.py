"""The memory plan of every ZeRO stage, with and without offload."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.plan.memory import (
    Setting,
    StagePlan,
    largest_micro_batch,
    plan_stage,
    read_buckets,
)
from trainer.plan.shape import StudentSize

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the answer."""

    name: str
    plan: StagePlan
    fits: bool
    largest: int
    """Examples of the largest micro batch that fits; 0: none."""


def lines(size: StudentSize, setting: Setting, *, micro_batch: int, limit: int) -> list[Line]:
    """Stages 0 (fp16: 1) to 3, and two ways to offload: the optimiser at 2, everything at 3."""
    # fp16 begins at stage 1 (trainer/config/run.py).
    first = 1 if setting.precision == "fp16" else 0
    choices = [(str(stage), stage, "none") for stage in range(first, 4)]
    choices += [("2 offload", 2, "optimizer"), ("3 offload", 3, "all")]
    found = []
    for name, stage, offload in choices:
        buckets = read_buckets(CONFIGS / f"zero{stage}.json")
        chosen = dataclasses.replace(setting, offload=offload)
        plan = plan_stage(stage, size, chosen, buckets, micro_batch=micro_batch)
        largest = largest_micro_batch(stage, size, chosen, buckets, limit=limit)
        found.append(Line(name=name, plan=plan, fits=plan.total <= limit, largest=largest))
    return found
