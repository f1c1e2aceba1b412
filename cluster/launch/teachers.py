"""Both teachers, served on this machine while a longer job needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.launch.child import Command
from cluster.launch.launcher import Launcher
from cluster.launch.machine import Machine
from cluster.launch.ports import free_port

NUM_TEACHERS = 2


@dataclass(frozen=True, kw_only=True)
class TeacherFleet:
    """A frozen teacher of each kind, and how they are served."""

    dialogue: Path
    recommendation: Path
    file: Path
    """Written by `teacher_server up`, read by `teacher_server down`."""
    machine: Machine
    num_others: int
    """Processes that compute beside the teachers."""

    def up(self, port: int) -> Command:
        """Serve both teachers; exits when they are ready."""
        num_processes = self.num_others + NUM_TEACHERS
        # Ray does not schedule the student: both teachers share one device and leave it the others.
        num_gpus = 1 / NUM_TEACHERS if self.machine.num_devices else 0
        return self.machine.module(
            "teachers up",
            *("teacher_server", "up", "--dialogue", str(self.dialogue)),
            *("--recommendation", str(self.recommendation)),
            *("--fleet", str(self.file), "--port", str(port)),
            *("--threads", str(self.machine.num_threads(num_processes))),
            *("--num-gpus", str(num_gpus)),
            num_processes=num_processes,
        )

    def down(self) -> Command:
        """Stop the fleet and the Ray cluster that `up` started."""
        return self.machine.module(
            "teachers down", "teacher_server", "down", "--fleet", str(self.file)
        )


@contextlib.contextmanager
def serve_teachers(fleet: TeacherFleet, launcher: Launcher) -> Iterator[str]:
    """Serve the teachers inside the context; yields the Directory's host:port."""
    port = free_port()
    try:
        launcher.run([fleet.up(port)])
        yield f"127.0.0.1:{port}"
    finally:
        take_down(fleet, launcher)


def take_down(fleet: TeacherFleet, launcher: Launcher) -> None:
    """Stop the fleet if there is one: a job that was ended by SIGKILL has left its own."""
    if fleet.file.exists():
        launcher.run([fleet.down()])
