"""The processes of the benchmark on their hosts: a Directory, replicas, students.

Hosts are those of a lab (cluster.netns.lab), or anything that starts commands and has an address.
All see one folder, which may have another path there than here.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cluster.bench.fleet.replica import SOCKET_NAME, ready_file
from cluster.bench.scaling import plan as plans
from cluster.bench.scaling.plan import Measured, Plan
from teacher_server.fleet.certificates import make_certificates
from trainer.common.atomic import write_text
from trainer.common.errors import MachineError
from trainer.kinds.names import DIALOGUE

HEAD, TEACHER = "head", "teacher"
"""Name of the Directory's host, and of the teacher's folder in the shared one."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
# Nine processes that import torch at once on two cores.
START_S = 300.0
# The slowest step of a cell on a busy machine; and what a cell's clients take to connect.
STEP_S, CONNECT_S = 60.0, 120.0
POLL_S = 0.05
TAIL_LINES = 15


class Starter(Protocol):
    """A host, as far as the benchmark needs one."""

    @property
    def address(self) -> str:
        """As the other hosts know it."""
        ...

    def start(
        self, *command: str | Path, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command in the sources' folder; its output goes to a file of this machine."""
        ...


def teacher_host(number: int) -> str:
    """Name of the host of a replica, from 1 on."""
    return f"teacher{number}"


def student_host(rank: int) -> str:
    """Name of the host of a rank, whose numbers begin at 0."""
    return f"student{rank + 1}"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """One folder, as this machine and as the hosts name it."""

    here: Path
    there: Path


class World:
    """What runs. The hosts' end ends it; `stop` does on hosts that stay."""

    def __init__(
        self,
        hosts: Mapping[str, Starter],
        shared: Shared,
        logs: Path,
        *,
        directory_port: int,
        prefix: Sequence[str] = (),
    ) -> None:
        """Make the certificates and the token; nothing is started.

        `prefix` comes before the commands of everything that goes on running, e.g. nice.
        """
        self._prefix = prefix
        self._hosts = hosts
        self._shared = shared
        self._logs = logs
        self._port = directory_port
        self._running: dict[str, subprocess.Popen[str]] = {}
        make_certificates(shared.here / "tls", days=1)
        token = shared.here / "token"
        write_text(token, secrets.token_hex(32))
        token.chmod(0o600)

    @property
    def settings(self) -> tuple[str, ...]:
        """The overrides with which a student's config reaches the fleet."""
        return (
            f"teachers.directory={self._hosts[HEAD].address}:{self._port}",
            f"teachers.tls={self._shared.there / 'tls'}",
            f"teachers.token_file={self._shared.there / 'token'}",
        )

    def address(self, host: str) -> str:
        """Of a host, as the others know it."""
        return self._hosts[host].address

    def start_directory(self, fleet: str) -> None:
        """Start the Directory of a fleet, whose folder is `fleet` in the shared one."""
        (self._shared.here / fleet).mkdir()
        head, socket = self._hosts[HEAD], self._shared.here / fleet / SOCKET_NAME
        self._start(
            f"{fleet}-directory",
            head,
            *("cluster.bench.fleet.directory", "--host", head.address, "--port", str(self._port)),
            *("--socket", str(self._shared.there / fleet / SOCKET_NAME), *self._security()),
        )
        self._wait_for([socket], START_S)

    def start_replicas(
        self, fleet: str, numbers: Sequence[int], *, answers: str, seconds_per_row: float
    ) -> None:
        """Start a replica on each teacher's host of a number; returns when they hold leases."""
        there, here = self._shared.there / fleet, self._shared.here / fleet
        for number in numbers:
            host = self._hosts[teacher_host(number)]
            self._start(
                f"{fleet}-{number}",
                host,
                *("cluster.bench.fleet.replica", "--kind", DIALOGUE, "--host", host.address),
                *("--folder", str(self._shared.there / TEACHER), "--id", f"{fleet}-{number}"),
                *("--run", str(there), "--answers", str(self._shared.there / answers)),
                *("--seconds-per-row", str(seconds_per_row), *self._security()),
            )
        self._wait_for([ready_file(here, f"{fleet}-{number}") for number in numbers], START_S)

    def start_students(self, plan: Plan, world: int) -> float:
        """Start all ranks with a plan; once they have met, bytes a second of an exchange alone."""
        plans.write_plan(self._shared.here, plan)
        for rank in range(world):
            host = self._hosts[student_host(rank)]
            self._start(
                student_host(rank),
                host,
                *("cluster.bench.scaling.student", "--plan", str(self._shared.there)),
                *("--rank", str(rank), "--world", str(world), "--address", host.address),
            )
        marks = [plans.ready_file(self._shared.here, rank) for rank in range(world)]
        self._wait_for(marks, START_S)
        return min(float(mark.read_text()) for mark in marks)

    def run_cell(self, plan: Plan, index: int) -> list[Measured]:
        """Let the students run a cell; what each measured."""
        folder, cell = self._shared.here, plan.cells[index]
        plans.write_mark(plans.go_file(folder, index))
        results = [plans.result_file(folder, index, rank) for rank in range(cell.students)]
        self._wait_for(results, CONNECT_S + STEP_S * (plan.steps + plan.warm_up))
        return [plans.read_measured(path) for path in results]

    def run_on(self, commands: Mapping[str, Sequence[str]], timeout_s: float) -> None:
        """Run a module on each host that is named, side by side, until all have ended with 0."""
        started = {
            host: self._start(f"run-{host}", self._hosts[host], *argv, prefix=())
            for host, argv in commands.items()
        }
        for host in commands:
            del self._running[f"run-{host}"]

        def ended() -> bool:
            statuses = {host: process.poll() for host, process in started.items()}
            failed = [host for host, status in statuses.items() if status]
            if failed:
                raise MachineError(
                    f"what runs on {failed[0]} must end with 0, got {statuses[failed[0]]}. "
                    f"{self._tail(f'run-{failed[0]}')}"
                )
            return all(status == 0 for status in statuses.values())

        self._until(ended, "the programs on the hosts must end", timeout_s)

    def processes(self) -> set[str]:
        """Names of those that run, and of students that are done."""
        return set(self._running)

    def stop(self) -> None:
        """End everything that was started."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait()
        self._running.clear()

    def _security(self) -> tuple[str, ...]:
        there = self._shared.there
        return ("--tls", str(there / "tls"), "--token-file", str(there / "token"))

    def _start(
        self, name: str, host: Starter, *argv: str, prefix: Sequence[str] | None = None
    ) -> subprocess.Popen[str]:
        before = self._prefix if prefix is None else prefix
        command = (*before, "python", "-u", "-m", *argv)
        process = host.start(*command, log=self._logs / f"{name}.log", env=ONE_THREAD)
        self._running[name] = process
        return process

    def _wait_for(self, files: Sequence[Path], timeout_s: float) -> None:
        self._until(
            lambda: all(file.exists() for file in files), f"{files[-1].name} must appear", timeout_s
        )

    def _until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Poll a condition; MachineError when a process ends before, or time is up."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            for name, process in self._running.items():
                # A student's end with 0 is the end of its plan.
                if process.poll():
                    raise MachineError(
                        f"{name} must run, got its end with {process.returncode}. "
                        f"{self._tail(name)}"
                    )
            if time.monotonic() > deadline_s:
                raise MachineError(
                    f"{what} within {timeout_s:.0f} s, got nothing. See {self._logs}."
                )
            time.sleep(POLL_S)

    def _tail(self, name: str) -> str:
        path = self._logs / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return f"The end of {path}: {' | '.join(lines)}"
