"""One student run under one scenario, compared with the undisturbed run."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.bench.chaos.attempt import Failure
from cluster.bench.chaos.evidence import (
    Counts,
    Witnessed,
    count_answers,
    count_rows,
    longest_wait_s,
    max_relative_difference,
    read_witness,
    recovery_s,
    speed,
)
from cluster.bench.chaos.scenarios import OUTAGE_S, Scenario
from cluster.bench.fleet.fleet import LOCAL, Fleet, Host, Served
from cluster.bench.fleet.waiting import ended, wait_until
from cluster.bench.result import Row
from cluster.launch.child import Command
from cluster.launch.launcher import Launcher
from cluster.launch.machine import ROOT, Machine
from trainer.common.errors import InputError, MachineError
from trainer.kinds.names import DIALOGUE, RECOMMENDATION

UNDISTURBED = "undisturbed"
STEPS = 70
FAULT_STEP = 25
WARM_UP_STEPS = 5
STUDENT_END_S = 180.0
DEADLINE_S = 3.0
SECONDS_PER_ROW = 0.004
CONFIG = "trainer/configs/synthetic.yaml"
TINY = ("student.num_layers=1", "student.hidden_size=32", "student.num_heads=2")
SETTINGS = (
    *TINY,
    *("zero_stage=0", "train.batch_size=8", "train.checkpoint_every=1000"),
    "optimiser.schedule=constant",
)
LEAST_PATIENCE_S = 60.0
STARTS_WAITED_FOR = 3
"""A replica may take so many times as long to start as it took before: other lanes run beside."""
STUDENT_START_S = 240.0
"""On a new machine DeepSpeed builds an extension first."""


MEASURED = (
    *("loss_difference", "lost", "duplicated", "reordered", "resends", "hedges"),
    *("fault_lasted_s", "recovery_s", "longest_wait_s"),
)
"""Columns of a trial's row, between its names and its error."""


def served_for_trials(
    folders: Mapping[str, Path],
    answers: Mapping[str, Path],
    *,
    num_dialogue: int = 2,
    num_recommendation: int = 1,
) -> Served:
    """Dialogue teachers, of which two are faster than a student's step, and the other kind."""
    return Served(
        folders=folders,
        answers=answers,
        num_replicas={DIALOGUE: num_dialogue, RECOMMENDATION: num_recommendation},
        seconds_per_row={DIALOGUE: SECONDS_PER_ROW},
    )


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What trials train: students on data, with the recorded answers if teachers replay them."""

    launcher: Launcher
    data: Path
    output: Path
    """Every trial has a folder in it."""
    fingerprints: Mapping[str, str] | None = None
    """Example id -> fingerprint of its replayed answers; None: real scoring."""
    steps: int = STEPS
    fault_step: int = FAULT_STEP
    """Handed-out batches after which the fault is injected."""
    hedge_percent: float = 0.0
    """teachers.hedge_percent of the students."""
    deadline_s: float = DEADLINE_S
    """teachers.deadline_s of the students."""

    @property
    def answers(self) -> str:
        """Where the teachers' answers come from."""
        return "scored" if self.fingerprints is None else "replayed"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Results of one run."""

    name: str
    answers: str
    curve: list[float]
    witnessed: Witnessed
    counts: Counts
    fault_s: float
    lifted_s: float
    survivors: float

    @property
    def speed(self) -> float:
        """Positions per second over the whole run but its first steps."""
        hand_outs = self.witnessed.handed_out
        return speed(hand_outs, hand_outs[WARM_UP_STEPS].at_s, hand_outs[-1].at_s)


async def run_trial(
    subject: Subject, fleet: Fleet, scenario: Scenario | None, host: Host = LOCAL
) -> Trial:
    """Train a student on the fleet and inject a fault meanwhile; None: an undisturbed run.

    Raises:
        MachineError: if the student fails, or something else does not come in time.
    """
    await fleet.heal()
    name = name_of(scenario)
    folder = subject.output / name.replace(" ", "-")
    witness = folder / "witness.jsonl"
    folder.mkdir(parents=True)
    student = subject.launcher.start(_student(subject, fleet, folder, witness, host))
    try:
        await wait_until(
            lambda: _num_handed_out(witness) >= subject.fault_step, student, STUDENT_START_S
        )
        fault_s = time.monotonic()
        if scenario is not None:
            await scenario.inject(fleet)
        lifted_s = time.monotonic()
        status = await ended(student, STUDENT_END_S)
    finally:
        # Of a trial that failed: the next one must have the machine for itself.
        student.signal_group(signal.SIGKILL)
    if status:
        raise MachineError(
            f"{student.command.name} must exit with 0, got {status}. Its log is {student.log}."
        )
    witnessed = read_witness(witness)
    return Trial(
        name=name,
        answers=subject.answers,
        curve=loss_curve(folder / "run"),
        witnessed=witnessed,
        counts=_count(subject, witnessed),
        fault_s=fault_s,
        lifted_s=lifted_s,
        survivors=1.0 if scenario is None else scenario.survivors,
    )


def name_of(scenario: Scenario | None) -> str:
    """Of a trial."""
    return UNDISTURBED if scenario is None else scenario.name


def patience_s(start_s: float) -> float:
    """Patience that outlasts an outage and the start of new replicas on this machine.

    Args:
        start_s: what replicas took to load when they were last started.
    """
    return max(LEAST_PATIENCE_S, OUTAGE_S + STARTS_WAITED_FOR * start_s)


def row_of(trial: Trial, undisturbed: Trial) -> Row:
    """A trial's line in the table; seconds count from the fault."""
    hand_outs = trial.witnessed.handed_out
    expected = undisturbed.speed * trial.survivors
    return {
        "scenario": trial.name,
        "answers": trial.answers,
        "loss_difference": max_relative_difference(trial.curve, undisturbed.curve),
        "lost": trial.counts.lost,
        "duplicated": trial.counts.duplicated,
        "reordered": trial.counts.reordered,
        "resends": trial.witnessed.resends,
        "hedges": trial.witnessed.hedges,
        "fault_lasted_s": trial.lifted_s - trial.fault_s,
        "recovery_s": recovery_s(hand_outs, trial.fault_s, expected),
        "longest_wait_s": longest_wait_s(hand_outs, trial.fault_s),
        "error": "",
    }


def failed_row(failure: Failure) -> Row:
    """The same columns of a scenario that came to no result."""
    return {
        "scenario": failure.name,
        "answers": failure.answers,
        **dict.fromkeys(MEASURED, ""),
        "error": failure.error,
    }


def loss_curve(run: Path) -> list[float]:
    """Loss of every step of a run directory, in order; ValueError if one is missing or double."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    steps = [entry for entry in map(json.loads, lines) if "event" not in entry]
    numbers = [entry["step"] for entry in steps]
    if numbers != list(range(1, len(steps) + 1)):
        raise InputError(f"{run} must have every step once, in order, got {numbers}.")
    return [entry["loss"] for entry in steps]


def environment() -> dict[str, str | None]:
    """Environment of students: one core and no GPU on every machine."""
    machine = Machine(num_cores=1, num_devices=0, python=Path(sys.executable))
    return {**machine.environment(1), "CUDA_VISIBLE_DEVICES": ""}


def _count(subject: Subject, witnessed: Witnessed) -> Counts:
    rows = count_rows(witnessed)
    if subject.fingerprints is None:
        return rows
    fingerprints = count_answers(witnessed, subject.fingerprints)
    return Counts(
        lost=rows.lost + fingerprints.lost,
        duplicated=rows.duplicated + fingerprints.duplicated,
        reordered=rows.reordered + fingerprints.reordered,
    )


def _student(subject: Subject, fleet: Fleet, folder: Path, witness: Path, host: Host) -> Command:
    argv = (
        *(*host.prefix, sys.executable, "-m", "cluster.bench.chaos.student"),
        *("--witness", str(witness), "--config", CONFIG),
        *(f"data={subject.data}", f"output={folder / 'run'}"),
        *(*fleet.settings, f"train.steps={subject.steps}", *SETTINGS),
        f"teachers.hedge_percent={subject.hedge_percent}",
        f"teachers.deadline_s={subject.deadline_s}",
        f"teachers.patience_s={patience_s(fleet.start_s)}",
    )
    name = f"student {subject.answers} {folder.name}"
    return Command(name=name, argv=argv, env=environment(), cwd=ROOT)


def _num_handed_out(witness: Path) -> int:
    return witness.read_text().count('"handed_out"') if witness.is_file() else 0
