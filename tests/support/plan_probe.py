"""Run by the deepspeed launcher: bytes of all tensors alive after a step, at every ZeRO stage.

deepspeed tests/support/plan_probe.py --config FILE data=DIR output=DIR [key=value ...]
"""

from __future__ import annotations

import dataclasses
import gc
import sys
from pathlib import Path
from typing import Literal, cast

import torch

from trainer.common.atomic import write_json
from trainer.config.run import RunConfig
from trainer.data.prepared import PreparedData
from trainer.engine.engine import Engine
from trainer.engine.ranks import on_first_rank, start_distributed, stop_distributed
from trainer.engine.student import Student
from trainer.export import _build
from trainer.lookahead import submitted_steps
from trainer.main import parse
from trainer.student_run import checked_input
from trainer.train import train_step


def live_bytes() -> int:
    gc.collect()
    storages = {}
    for it in gc.get_objects():
        # Not isinstance: lazy objects of torch import modules when they are looked at.
        if issubclass(type(it), torch.Tensor) and it.device.type == "cpu":
            storage = it.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def after_steps(config: RunConfig, data: PreparedData) -> int:
    """What all tensors of a student take after two steps, less those that were there before."""
    before = live_bytes()
    model, examples, _ = _build(config, data, None)
    engine = Engine(Student(model, loss_chunk_size=8), config)
    for submitted in submitted_steps(
        config,
        engine,
        vocabulary=data.vocabulary,
        examples=examples,
        limits=model.limits,
        teachers=None,
        first_step=0,
    ):
        train_step(config, engine, submitted)
    return live_bytes() - before


def main() -> None:
    config, data = checked_input(parse(sys.argv[1:]))
    start_distributed()
    found = {}
    for precision in ("float32", "bf16"):
        for stage in (0, 1, 2, 3):
            name = cast(Literal["float32", "bf16"], precision)
            chosen = dataclasses.replace(
                config,
                zero_stage=cast(Literal[0, 1, 2, 3], stage),
                train=dataclasses.replace(config.train, precision=name),
            )
            found[f"{precision} {stage}"] = after_steps(chosen, data)
    on_first_rank(lambda: write_json(Path(config.output) / "found.json", found))
    stop_distributed()


if __name__ == "__main__":
    main()
