"""A rank that trains with one forward per dialogue and per response, at each ZeRO stage.

deepspeed --num_accelerators 2 tests/support/one_pass_rank.py RESULT main's arguments
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, os.getcwd())

import torch

from trainer.common.atomic import write_json
from trainer.common.cli import run_rank
from trainer.config.run import RunConfig
from trainer.data.prepared import PreparedData
from trainer.engine.engine import Engine
from trainer.engine.ranks import start_distributed, stop_distributed
from trainer.engine.student import Student
from trainer.lookahead import submitted_steps
from trainer.main import parse
from trainer.models.language_model import build_language_model
from trainer.student_run import checked_input
from trainer.train import train_step


def steps(config: RunConfig, data: PreparedData, *, merges: bool) -> list[dict[str, Any]]:
    """Loss, tokens and positions of each step, over all ranks."""
    torch.manual_seed(config.seed)
    model = build_language_model(config.student, data.vocabulary)
    engine = Engine(Student(model, loss_chunk_size=config.train.loss_chunk_size), config)
    found = []
    for submitted in submitted_steps(
        config,
        engine,
        vocabulary=data.vocabulary,
        examples=data.examples("train"),
        limits=replace(model.limits, takes_ranges=merges),
        teachers=None,
        first_step=0,
    ):
        sums = train_step(config, engine, submitted)
        total = sums.over_ranks(engine.sum_over_ranks, engine.world_size, None)
        found.append({name: total.values[name] for name in ("loss", "tokens", "positions")})
    return found


def main(argv: list[str]) -> None:
    """Write what both forms computed, by stage."""
    arguments = [each for each in argv if not each.startswith("--local_rank")]
    result, *rest = arguments
    config, data = checked_input(parse(rest))
    start_distributed()
    try:
        stages = {
            stage: {
                name: steps(replace(config, zero_stage=stage), data, merges=merges)
                for name, merges in (("dialogue", True), ("response", False))
            }
            for stage in range(4)
        }
        if os.environ["RANK"] == "0":
            write_json(Path(result), stages)
    finally:
        stop_distributed()


if __name__ == "__main__":
    run_rank(main)
