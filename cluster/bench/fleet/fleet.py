"""A fleet of real processes that can be killed, stopped, drained and spoilt one by one."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cluster.bench.fleet.faults import Fault
from cluster.bench.fleet.replica import SOCKET_NAME, fault_file, ready_file
from cluster.launch import Child, Command, Launcher, free_port
from cluster.stages import ROOT
from trainer.security.credentials import NO_SECURITY, SecurityFiles

POLL_S = 0.02
# Three fleets start at once: eleven processes that import torch on two cores took over a minute.
START_S = 240.0
STOP_S = 20.0
DIALOGUE, RECOMMENDATION = "dialogue", "recommendation"


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served."""

    folders: dict[str, Path]
    answers: dict[str, Path] = field(default_factory=dict)
    """Tables of recorded answers; empty: real scoring."""
    seconds_per_row: float = 0.004
    """Of the dialogue teacher: two of them are faster than the student's step."""
    num_recommendation: int = 1
    """Recommendation teachers; dialogue teachers are two."""

    @property
    def num_replicas(self) -> dict[str, int]:
        """Replicas of each kind in a whole fleet."""
        return {DIALOGUE: 2, RECOMMENDATION: self.num_recommendation}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where processes run."""

    host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    """Before every command, e.g. to enter a network namespace."""
    security: SecurityFiles = NO_SECURITY
    """Of what is served there."""


@dataclass(frozen=True, eq=False)
class ReplicaProcess:
    """One replica that was started."""

    kind: str
    replica_id: str
    child: Child

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the replica, if it lives."""
        if self.child.process.poll() is None:
            os.kill(self.child.process.pid, number)


class Fleet:
    """A Directory, two dialogue teachers, and one or more of recommendation."""

    def __init__(self, launcher: Launcher, served: Served, run: Path, place: Place) -> None:
        self._launcher = launcher
        self._served = served
        self._run = run
        self._place = place
        self._port = free_port()
        self._numbers = itertools.count(1)
        self._directory: Child | None = None
        self._replicas: list[ReplicaProcess] = []
        run.mkdir(parents=True)

    @property
    def directory(self) -> str:
        """The Directory's host:port, the same after a restart."""
        return f"{self._place.host}:{self._port}"

    @property
    def settings(self) -> tuple[str, ...]:
        """How a student's config reaches the fleet."""
        settings = {"directory": self.directory, **self._security_options()}
        return tuple(f"teachers.{name}={value}" for name, value in settings.items())

    @property
    def dialogue(self) -> list[ReplicaProcess]:
        """The dialogue replicas, oldest first."""
        return [each for each in self._replicas if each.kind == DIALOGUE]

    @property
    def recommendation(self) -> list[ReplicaProcess]:
        """The recommendation replicas, oldest first."""
        return [each for each in self._replicas if each.kind == RECOMMENDATION]

    async def mend(self) -> None:
        """Start what is missing, and go on once every replica holds a lease."""
        for replica in self._replicas:
            replica.signal(signal.SIGCONT)
            fault_file(self._run, replica.replica_id).unlink(missing_ok=True)
        self._replicas = [it for it in self._replicas if it.child.process.poll() is None]
        if self._directory is None or self._directory.process.poll() is not None:
            self.start_directory()
        for kind, number in self._served.num_replicas.items():
            for _ in range(number - sum(each.kind == kind for each in self._replicas)):
                self._start_replica(kind)
        for replica in self._replicas:
            await wait_until(ready_file(self._run, replica.replica_id).exists, replica.child)

    def start_directory(self) -> None:
        """Start the Directory on its port."""
        options = ("--host", self._place.host, "--port", str(self._port))
        socket = ("--socket", str(self._run / SOCKET_NAME))
        self._directory = self._start("directory", *options, *socket)

    async def kill_directory(self) -> None:
        """End the Directory with SIGKILL."""
        assert self._directory is not None
        self._directory.process.kill()
        await ended(self._directory)

    async def kill(self, replica: ReplicaProcess) -> None:
        """End a replica with SIGKILL."""
        replica.signal(signal.SIGKILL)
        await ended(replica.child)

    async def drain(self, replica: ReplicaProcess) -> None:
        """Ask a replica to finish and leave, as Serve does.

        Raises:
            ChildProcessError: if it ends with another status than 0.
        """
        replica.signal(signal.SIGTERM)
        if status := await ended(replica.child):
            raise ChildProcessError(f"a drained replica must exit with 0, got {status}.")

    def spoil(self, replica: ReplicaProcess, fault: Fault) -> None:
        """From now on its replies are spoilt."""
        path = fault_file(self._run, replica.replica_id)
        temporary = path.with_suffix(".new")
        temporary.write_text(fault)
        temporary.replace(path)

    async def stop(self) -> None:
        """End all of it."""
        children = [each.child for each in self._replicas]
        for child in [*children, *([self._directory] if self._directory else [])]:
            child.process.kill()
            await ended(child)

    def _start_replica(self, kind: str) -> None:
        replica_id = f"{kind}-{next(self._numbers)}"
        answers = self._served.answers.get(kind)
        pace = self._served.seconds_per_row if kind == DIALOGUE else 0.0
        child = self._start(
            "replica",
            *("--kind", kind, "--folder", str(self._served.folders[kind]), "--id", replica_id),
            *("--host", self._place.host, "--run", str(self._run)),
            *("--seconds-per-row", str(pace)),
            *(() if answers is None else ("--answers", str(answers))),
        )
        self._replicas.append(ReplicaProcess(kind, replica_id, child))

    def _security_options(self) -> dict[str, str]:
        security = self._place.security
        options = {"tls": security.tls, "token_file": security.token_file}
        return {name: value for name, value in options.items() if value is not None}

    def _start(self, module: str, *options: str) -> Child:
        argv = (sys.executable, "-m", f"cluster.bench.fleet.{module}", *options)
        name = f"{self._run.name} {module} {next(self._numbers)}"
        env = {"OMP_NUM_THREADS": "1"}
        for option, value in self._security_options().items():
            argv = (*argv, f"--{option.replace('_', '-')}", value)
        command = Command(name=name, argv=(*self._place.prefix, *argv), env=env, cwd=ROOT)
        return self._launcher.start(command)


async def wait_until(
    condition: Callable[[], bool], child: Child, timeout_s: float = START_S
) -> None:
    """Wait for a condition that a child brings about.

    Raises:
        ChildProcessError: if the child ended before, or time is up.
    """
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        status = child.process.poll()
        if status is not None or time.monotonic() > deadline_s:
            got = "none in time" if status is None else f"its end with status {status}"
            raise ChildProcessError(
                f"{child.command.name} must come to its next event, got {got}. Its log is "
                f"{child.log}."
            )
        await asyncio.sleep(POLL_S)


async def ended(child: Child, timeout_s: float = STOP_S) -> int:
    """Wait for a child's end; its status. Raises ChildProcessError if it takes too long."""
    deadline_s = time.monotonic() + timeout_s
    while (status := child.process.poll()) is None:
        if time.monotonic() > deadline_s:
            raise ChildProcessError(f"{child.command.name} must end, got none in {timeout_s:g} s.")
        await asyncio.sleep(POLL_S)
    return status
