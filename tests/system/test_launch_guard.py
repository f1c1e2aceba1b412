"""A student node's launcher leaves no process behind, whatever ends it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.students.launch_guard import EXIT_ABANDONED, EXIT_LEASE_OVER
from tests.support.student_runs import ROOT, environment

START_S = 30.0
# A launcher: it starts a rank, and a process that leaves its session; then it waits, or ends.
LAUNCHER = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
rank = subprocess.Popen(sleep)
daemon = subprocess.Popen(sleep, start_new_session=True)
print(rank.pid, daemon.pid, flush=True)
if sys.argv[1] != "wait":
    sys.exit(int(sys.argv[1]))
time.sleep(600)
"""


class Guarded:
    def __init__(self, guard: subprocess.Popen[str]) -> None:
        self.guard = guard
        assert guard.stdout is not None and guard.stdin is not None
        self.stdin = guard.stdin
        # The guard has no child before the launcher says who its own are.
        pids = guard.stdout.readline().split()
        self.processes = psutil.Process(guard.pid).children()
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended already
                self.processes.append(psutil.Process(int(pid)))

    def lease(self, seconds: float) -> None:
        self.stdin.write(f"{time.monotonic() + seconds}\n")
        self.stdin.flush()

    def all_ended(self) -> bool:
        _, alive = psutil.wait_procs(self.processes, timeout=START_S)
        return not alive


@contextlib.contextmanager
def guarded(what: str, tmp_path: Path) -> Iterator[Guarded]:
    script = tmp_path / "launcher.py"
    script.write_text(LAUNCHER)
    command = (sys.executable, "-m", "cluster.students.launch_guard", sys.executable, script, what)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as guard:
        found = Guarded(guard)
        try:
            yield found
        finally:
            guard.kill()
            for process in found.processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def test_all_processes_end_when_the_actor_that_started_them_is_gone(tmp_path: Path) -> None:
    with guarded("wait", tmp_path) as found:
        assert len(found.processes) == 3
        found.lease(3600)
        assert all(each.is_running() for each in found.processes)
        # As the kernel does for an actor that was killed.
        found.stdin.close()
        assert found.guard.wait(START_S) == EXIT_ABANDONED
        assert found.all_ended()


def test_all_processes_end_when_the_lease_is_over_and_not_before(tmp_path: Path) -> None:
    with guarded("wait", tmp_path) as found:
        began_s = time.monotonic()
        found.lease(1.0)
        found.lease(2.0)
        # One that was sent before, and came late.
        found.lease(0.5)
        assert found.guard.wait(START_S) == EXIT_LEASE_OVER
        assert time.monotonic() - began_s >= 2.0
        assert found.all_ended()


@pytest.mark.parametrize("status", [0, 2])
def test_daemons_end_with_the_launcher_whose_status_is_passed_on(
    status: int, tmp_path: Path
) -> None:
    with guarded(str(status), tmp_path) as found:
        assert found.guard.wait(START_S) == status
        assert found.all_ended()


def test_launcher_is_told_to_end_its_ranks_when_the_guard_was_killed(tmp_path: Path) -> None:
    with guarded("wait", tmp_path) as found:
        launcher = found.processes[0]
        found.guard.kill()
        _, alive = psutil.wait_procs([launcher], timeout=START_S)
        assert alive == []
