"""Teachers gone for longer than teachers.patience_s: the run stops whole and is resumed."""

from __future__ import annotations

from pathlib import Path

from cluster.bench.chaos.evidence import max_relative_difference
from cluster.bench.chaos.trial import (
    CONFIG,
    DEADLINE_S,
    SETTINGS,
    STUDENT_END_S,
    STUDENT_START_S,
    Subject,
    environment,
    loss_curve,
)
from cluster.bench.fleet.fleet import Fleet
from cluster.bench.fleet.waiting import ended, wait_until
from cluster.bench.result import Row
from cluster.launch.child import Child, Command
from cluster.launch.machine import NUM_RANKS, ROOT
from cluster.launch.ports import free_port
from trainer.checkpoints.files import CHECKPOINTS_NAME, newest_whole
from trainer.common.errors import MachineError

BEYOND_PATIENCE = "all gone beyond patience"
STEPS = 30
GONE_AFTER_STEP = 12
PATIENCE_S = 5


async def run_beyond_patience(subject: Subject, fleet: Fleet) -> Row:
    """Three runs of `deepspeed trainer/main.py`: undisturbed, deserted, and the same resumed.

    Raises:
        MachineError: if a run ends otherwise than it must.
    """
    await fleet.heal()
    calm, deserted = subject.output / "calm", subject.output / "deserted"
    await _finish(_start(subject, fleet, calm, "calm"))
    left = await _desert(_start(subject, fleet, deserted, "deserted"), fleet, deserted)
    await fleet.heal()
    await _finish(_start(subject, fleet, deserted, "resumed"))
    difference = max_relative_difference(loss_curve(deserted), loss_curve(calm))
    return {
        "scenario": BEYOND_PATIENCE,
        "answers": subject.answers,
        "loss_difference": difference,
        **left,
    }


async def _desert(child: Child, fleet: Fleet, output: Path) -> Row:
    """Kill all teachers in the middle, and return how the run ended."""
    await wait_until(lambda: _steps_done(output) >= GONE_AFTER_STEP, child, STUDENT_START_S)
    for replica in fleet.replicas():
        await fleet.kill(replica)
    status = await ended(child, STUDENT_END_S)
    errors = [it for it in child.log.read_text().splitlines() if it.startswith("error: ")]
    newest = newest_whole(output / CHECKPOINTS_NAME)
    checkpoint = 0 if newest is None else newest.step
    if status == 0 or len(errors) != 1 or checkpoint != _steps_done(output):
        raise MachineError(
            "a deserted run must exit with one error and a checkpoint of its last step, got "
            f"status {status}, {errors} and step {checkpoint}. Its log is {child.log}."
        )
    return {"exit_status": status, "checkpoint_step": checkpoint, "told": errors[0]}


async def _finish(child: Child) -> None:
    if status := await ended(child, STUDENT_START_S + STUDENT_END_S):
        raise MachineError(
            f"{child.command.name} must exit with 0, got {status}. Its log is {child.log}."
        )


def _start(subject: Subject, fleet: Fleet, output: Path, name: str) -> Child:
    argv = (
        *("deepspeed", "--num_accelerators", str(NUM_RANKS)),
        *("--master_port", str(free_port()), "trainer/main.py", "--config", CONFIG),
        *(f"data={subject.data}", f"output={output}", *fleet.settings),
        *(*SETTINGS, f"train.steps={STEPS}", f"teachers.deadline_s={DEADLINE_S}"),
        f"teachers.patience_s={PATIENCE_S}",
    )
    return subject.launcher.start(
        Command(name=f"student {name}", argv=argv, env=environment(), cwd=ROOT)
    )


def _steps_done(output: Path) -> int:
    path = output / "metrics.jsonl"
    return path.read_text().count('"step"') if path.is_file() else 0
