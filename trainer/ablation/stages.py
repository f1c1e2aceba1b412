"""The commands that make a cell: ordinary ones, which can be run by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.launch.child import Command
from cluster.launch.machine import ROOT, Machine

SPLIT = "test"


def train(machine: Machine, name: str, config: Path) -> Command:
    """Train a student on all ranks, by a whole config."""
    start = machine.student_start()
    return Command(
        name=f"{name} train",
        argv=(*start.argv, "--config", str(config.resolve())),
        env={**machine.environment(machine.num_ranks), **start.env},
        cwd=ROOT,
    )


def respond(
    machine: Machine, name: str, model: Path, data: Path, output: Path, options: Sequence[str] = ()
) -> list[list[Command]]:
    """Write the records of the test split, in as many processes as a student has ranks.

    `options` are further ones of the command.
    """
    return [
        [
            machine.module(
                f"{name} respond {shard}",
                *("trainer.evaluation.respond", "--checkpoint", str(model.resolve())),
                *("--data", str(data.resolve()), "--output", str(output.resolve())),
                *("--split", SPLIT, "--shard", f"{shard}/{machine.num_ranks}", *options),
                num_processes=machine.num_ranks,
            )
        ]
        for shard in range(machine.num_ranks)
    ]


def diverge(
    machine: Machine, name: str, model: Path, teacher: Path, data: Path, output: Path
) -> Command:
    """Compare a student with the dense dialogue teacher on the test split."""
    return machine.module(
        f"{name} diverge",
        *("trainer.evaluation.divergence", "--checkpoint", str(model.resolve())),
        *("--teacher", str(teacher.resolve()), "--data", str(data.resolve())),
        *("--split", SPLIT, "--output", str(output.resolve())),
    )
