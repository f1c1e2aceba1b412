"""The story of a proof: two runs that nothing disturbs, students under all that may happen, hashes.

1. a student learns from teachers in its own process, while Ray and the fleet start;
2. a calm student learns from the fleet;
3. when both have ended, students learn from the fleet, at a pace, while events happen to it;
4. the weights of all are compared.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.netns.host import HostProcess, tail
from cluster.netns.lab import Lab
from cluster.proof.events import EVENTS, Event, events_of
from cluster.proof.machines import HEAD, STUDENT, Machines
from cluster.proof.pace import allow
from cluster.proof.report import (
    CALM,
    IN_PROCESS,
    Happened,
    Proof,
    digest_of,
    event_line,
)
from cluster.proof.watch import Watch, longest_stall_s, step_entries
from trainer.common.errors import MachineError
from trainer.kinds.names import DIALOGUE, RECOMMENDATION
from trainer.models.student_card import MODEL_FOLDER
from trainer.telemetry.run_log import METRICS_NAME

PACE, AT_ONCE = "pace", "at-once"
POLL_S = 0.2
FIRST_STEP_S = 240.0
END_S = 300.0
# Batches that a student asks for before its first step: `teachers.in_flight`, and that step's.
AHEAD = 5
# Steps that wait until all has happened.
LAST_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is to happen, and to whom."""

    hosts: Sequence[str]
    replicas: Mapping[str, int]
    events: Sequence[Event]
    num_steps: int
    steps_per_s: float
    every_s: float
    """From the start of an event to the next, if the first has been done by then."""


FULL = Plan(
    hosts=(HEAD, "teacher1", "teacher2", "student1", "student2"),
    replicas={DIALOGUE: 2, RECOMMENDATION: 2},
    events=events_of(EVENTS),
    num_steps=600,
    steps_per_s=1.0,
    every_s=30.0,
)
SHORT = Plan(
    hosts=(HEAD, "teacher1", "teacher2", "student1"),
    replicas={DIALOGUE: 2, RECOMMENDATION: 1},
    events=events_of(("replica", "directory", "link")),
    num_steps=60,
    steps_per_s=2.0,
    every_s=5.0,
)


def prove(plan: Plan, output: Path, *, say: Callable[[str], None]) -> Proof:
    """Run a plan in a new folder that holds shared/data and shared/teachers.

    Raises:
        InputError: if this machine cannot have hosts in namespaces.
        MachineError: if a run or a command fails.
    """
    shared = output / "shared"
    runs = shared / "runs"
    runs.mkdir()
    with Lab(output / "lab", hosts=plan.hosts, shared=shared) as lab:
        machines = Machines(lab, shared, plan.replicas)
        settings = (f"train.steps={plan.num_steps}", *STUDENTS)
        first, last = machines.names(STUDENT)[0], machines.names(STUDENT)[-1]
        folders = [f"--{kind}=/shared/teachers/{kind}" for kind in plan.replicas]
        own = ("in_process_student.py", *folders, *settings)
        alone = machines.start_student(last, IN_PROCESS, own)
        say("Ray and the fleet start; a student learns from teachers in its own process")
        machines.start()
        spread = machines.spread()
        say(f"hosts with replicas: {', '.join(f'{it} {spread[it]}' for it in spread)}")
        for pace, batches in ((AT_ONCE, plan.num_steps), (PACE, AHEAD)):
            allow(shared / pace, batches)

        def served(pace: str) -> tuple[str, ...]:
            at = f"/shared/{pace}"
            return ("student.py", "--pace", at, *settings, *machines.to_teachers)

        say("a calm student learns from the fleet, and those start that will be disturbed")
        calm = machines.start_student(first, CALM, served(AT_ONCE))
        names = machines.names(STUDENT)
        students = {name: machines.start_student(name, name, served(PACE)) for name in names}
        wait_for({IN_PROCESS: alone, CALM: calm}, runs)
        with Watch([runs / name for name in names]) as watch:
            events = disturb(plan, machines, students, watch, say)
            allow(shared / PACE, plan.num_steps)
            wait_for(students, runs)
            watch.look()
    logs = {name: step_entries(runs / name / METRICS_NAME) for name in names}
    for name, entries in logs.items():
        if [it["step"] for it in entries] != list(range(1, plan.num_steps + 1)):
            raise MachineError(f"{name} must have made each step once, got {len(entries)} lines.")
    return Proof(
        events=events,
        seen=watch.seen,
        weights={it: digest_of(runs / it / MODEL_FOLDER) for it in (*names, CALM, IN_PROCESS)},
        num_steps=plan.num_steps,
        spread=spread,
        resends={name: sum(int(it["teacher_resends"]) for it in logs[name]) for name in logs},
    )


STUDENTS = (
    *("student.num_layers=1", "student.hidden_size=32", "student.num_heads=2"),
    *("train.batch_size=8", "train.checkpoint_every=200", "zero_stage=2", "seed=7"),
    # No end of a run before the end of all that happens.
    "teachers.patience_s=900",
)


def disturb(
    plan: Plan,
    machines: Machines,
    students: Mapping[str, HostProcess],
    watch: Watch,
    say: Callable[[str], None],
) -> list[Happened]:
    """Let the students step at their pace, and everything happen to their teachers meanwhile."""
    _wait_until(lambda: all(map(watch.step, students)), FIRST_STEP_S, "a first step", students)
    watch.set_to_zero()
    say("students learn from the fleet")
    pacing, happened = Pacing(machines.shared / PACE, plan), list[Happened]()
    with pacing:
        time.sleep(1.0)
        for event in plan.events:
            from_s = watch.now_s()
            event.act(machines)
            done_s = watch.now_s()
            _check_running(students, machines.shared / "runs")
            time.sleep(max(1.0, from_s + plan.every_s - done_s))
            until_s = watch.now_s()
            it = Happened(text=event.text, from_s=from_s, done_s=done_s, until_s=until_s)
            happened.append(it)
            stalls = [longest_stall_s(seen, from_s, until_s) for seen in watch.seen.values()]
            say(event_line(it, stalls))
        # What the last one has stopped goes on before the rest is allowed.
        steps = {name: watch.step(name) for name in students}
        _wait_until(
            lambda: pacing.is_held or all(watch.step(it) > steps[it] for it in students),
            END_S,
            "a step after all events",
            students,
        )
    return happened


class Pacing:
    """Allows steps at a constant rate, but for the last, from entering the context to leaving."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self._path = path
        self._plan = plan
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._allow_on, name="pace", daemon=True)
        self.is_held = False
        """Whether all but the last steps were allowed before all has happened."""

    def __enter__(self) -> Pacing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _allow_on(self) -> None:
        start_s = time.monotonic()
        most = self._plan.num_steps - LAST_STEPS
        while not self._ended.wait(POLL_S):
            due = AHEAD + int((time.monotonic() - start_s) * self._plan.steps_per_s)
            self.is_held = due >= most
            allow(self._path, min(due, most))


def wait_for(students: Mapping[str, HostProcess], runs: Path) -> None:
    """Return when all have ended well; MachineError with the log of one that has not."""
    for student in students.values():
        while student.poll() is None:
            time.sleep(POLL_S)
            _check_running(students, runs)
    _check_running(students, runs)


def _check_running(students: Mapping[str, HostProcess], runs: Path) -> None:
    for name, student in students.items():
        if student.poll():
            log = tail((runs / f"{name}.log").read_text())
            raise MachineError(f"{name} must end with 0, got {student.poll()}. Its log:\n{log}")


def _wait_until(
    is_so: Callable[[], bool], timeout_s: float, what: str, students: Mapping[str, HostProcess]
) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline_s:
            raise MachineError(f"{what} must come within {timeout_s:g} s, got none.")
        if any(student.poll() for student in students.values()):
            raise MachineError(f"{what} must come, got the end of a student. Look at its log.")
        time.sleep(POLL_S)
