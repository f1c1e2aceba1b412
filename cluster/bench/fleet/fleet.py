"""A fleet without Ray: a real Directory and real replicas, each a process that can be hurt.

    with running_fleet(Served(folders={"dialogue": DIR, "recommendation": DIR}), run) as fleet:
        train(*fleet.settings)
        replica = fleet.replicas("dialogue")[0]
        asyncio.run(fleet.kill(replica))  # or replica.signal, drain, inject, kill_directory
        asyncio.run(fleet.heal())

The teachers score, or replay recorded answers (cluster.bench.fleet.recording).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.bench.fleet.faults import Fault
from cluster.bench.fleet.replica import SOCKET_NAME, fault_file, ready_file
from cluster.bench.fleet.waiting import ended, wait_until
from cluster.launch.child import Child, Command
from cluster.launch.launcher import Launcher
from cluster.launch.machine import ROOT
from cluster.launch.ports import free_port
from trainer.common.errors import MachineError
from trainer.security.credentials import NO_SECURITY, SecurityFiles


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served."""

    folders: Mapping[str, Path]
    """Kind -> folder of the frozen teacher."""
    answers: Mapping[str, Path] = field(default_factory=dict)
    """Kind -> table of recorded answers; real scoring without one."""
    num_replicas: Mapping[str, int] = field(default_factory=dict)
    """Kind -> number of replicas; 1 without an entry."""
    seconds_per_row: Mapping[str, float] = field(default_factory=dict)
    """Kind -> time that each row takes beyond its scoring; none without an entry."""
    deterministic: bool = False
    """Every example is scored alone, as by `up --deterministic`."""
    plugins: Sequence[str] = ()
    """Modules that add kinds of teachers."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where processes run."""

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    """Before every command, e.g. to enter a network namespace."""


LOCAL = Host()


@dataclass(frozen=True, eq=False)
class ReplicaProcess:
    """One replica that was started."""

    kind: str
    replica_id: str
    child: Child

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the replica if it lives."""
        self.child.signal(number)


class Fleet:
    """A Directory and the replicas of every kind; `heal` starts them."""

    def __init__(
        self,
        launcher: Launcher,
        served: Served,
        run: Path,
        *,
        host: Host = LOCAL,
        security: SecurityFiles = NO_SECURITY,
    ) -> None:
        """Make the folder `run` for sockets and marks; no process starts yet."""
        self._launcher = launcher
        self._served = served
        self._run = run
        self._host = host
        self._security = {
            name: value
            for name, value in (("tls", security.tls), ("token_file", security.token_file))
            if value is not None
        }
        self._port = free_port()
        self._numbers = itertools.count(1)
        self._directory: Child | None = None
        self._frozen: list[Child] = []
        """Directories that were stopped by SIGSTOP and replaced."""
        self._replicas: list[ReplicaProcess] = []
        self.start_s = 0.0
        """The longest that `heal` waited for replicas to load."""
        run.mkdir(parents=True)

    @property
    def directory(self) -> str:
        """The Directory's host:port, the same after a restart."""
        return f"{self._host.address}:{self._port}"

    @property
    def socket(self) -> Path:
        """Where replicas renew their leases with the present Directory."""
        return self._run / SOCKET_NAME

    @property
    def settings(self) -> tuple[str, ...]:
        """The overrides with which a student's config reaches the fleet."""
        settings = {"directory": self.directory, **self._security}
        return tuple(f"teachers.{name}={value}" for name, value in settings.items())

    def replicas(self, kind: str | None = None) -> list[ReplicaProcess]:
        """The replicas of a kind, or all of them, oldest first."""
        return [each for each in self._replicas if kind in (None, each.kind)]

    async def heal(self) -> None:
        """Start what is missing, end all faults, and wait until every replica holds a lease."""
        for replica in self._replicas:
            replica.signal(signal.SIGCONT)
            fault_file(self._run, replica.replica_id).unlink(missing_ok=True)
        self._replicas = [it for it in self._replicas if it.child.poll() is None]
        if self._directory is None or self._directory.poll() is not None:
            self.start_directory()
        start_s = time.monotonic()
        for kind in self._served.folders:
            for _ in range(self._served.num_replicas.get(kind, 1) - len(self.replicas(kind))):
                self._start_replica(kind)
        for replica in self._replicas:
            await self._until_ready(replica)
        self.start_s = max(self.start_s, time.monotonic() - start_s)

    async def add(self, kind: str, listed_at: str) -> ReplicaProcess:
        """Start one more replica, which is listed at another address than its own."""
        self._start_replica(kind, "--listed-at", listed_at)
        replica = self._replicas[-1]
        await self._until_ready(replica)
        return replica

    def address_of(self, replica: ReplicaProcess) -> str:
        """host:port on which a replica listens itself."""
        return ready_file(self._run, replica.replica_id).read_text()

    def start_directory(self) -> None:
        """Start the Directory on its port."""
        options = ("--host", self._host.address, "--port", str(self._port))
        socket = ("--socket", str(self.socket))
        self._directory = self._start("directory", *options, *socket)

    async def kill_directory(self) -> None:
        """End the Directory with SIGKILL."""
        assert self._directory is not None
        self._directory.signal(signal.SIGKILL)
        await ended(self._directory)

    def freeze_directory(self) -> None:
        """Stop the Directory with SIGSTOP: its connections stay open, and it says nothing."""
        assert self._directory is not None
        self._directory.signal(signal.SIGSTOP)

    def replace_directory(self) -> None:
        """Start another one for a frozen Directory, which keeps its port until `stop`."""
        assert self._directory is not None
        self._frozen.append(self._directory)
        self._port = free_port()
        self.start_directory()

    async def kill(self, replica: ReplicaProcess) -> None:
        """End a replica with SIGKILL."""
        replica.signal(signal.SIGKILL)
        await ended(replica.child)

    async def drain(self, replica: ReplicaProcess) -> None:
        """Ask a replica to finish and leave, as Serve does.

        Raises:
            MachineError: if it ends with another status than 0.
        """
        replica.signal(signal.SIGTERM)
        if status := await ended(replica.child):
            raise MachineError(f"a drained replica must exit with 0, got {status}.")

    def inject(self, replica: ReplicaProcess, fault: Fault) -> None:
        """Give a replica's replies a fault from now on, until `heal`."""
        path = fault_file(self._run, replica.replica_id)
        temporary = path.with_suffix(".new")
        temporary.write_text(fault)
        temporary.replace(path)

    async def stop(self) -> None:
        """End all of it."""
        children = [each.child for each in self._replicas]
        for child in [*children, *self._frozen, *([self._directory] if self._directory else [])]:
            child.signal(signal.SIGKILL)
            await ended(child)

    async def _until_ready(self, replica: ReplicaProcess) -> None:
        await wait_until(ready_file(self._run, replica.replica_id).exists, replica.child)

    def _start_replica(self, kind: str, *options: str) -> None:
        replica_id = f"{kind}-{next(self._numbers)}"
        answers = self._served.answers.get(kind)
        child = self._start(
            "replica",
            *("--kind", kind, "--folder", str(self._served.folders[kind]), "--id", replica_id),
            *("--host", self._host.address, "--run", str(self._run)),
            *("--seconds-per-row", str(self._served.seconds_per_row.get(kind, 0.0))),
            *(() if answers is None else ("--answers", str(answers))),
            *(("--deterministic",) if self._served.deterministic else ()),
            *options,
            *(option for plugin in self._served.plugins for option in ("--plugin", plugin)),
        )
        self._replicas.append(ReplicaProcess(kind, replica_id, child))

    def _start(self, module: str, *options: str) -> Child:
        argv = (sys.executable, "-m", f"cluster.bench.fleet.{module}", *options)
        name = f"{self._run.name} {module} {next(self._numbers)}"
        for option, value in self._security.items():
            argv = (*argv, f"--{option.replace('_', '-')}", value)
        argv = (*self._host.prefix, *argv)
        command = Command(name=name, argv=argv, env={"OMP_NUM_THREADS": "1"}, cwd=ROOT)
        return self._launcher.start(command)


@contextlib.contextmanager
def running_fleet(
    served: Served, run: Path, *, security: SecurityFiles = NO_SECURITY
) -> Iterator[Fleet]:
    """A whole fleet on this machine for as long as the context lasts; its logs are in run/logs.

    Not inside an event loop: it waits for the replicas in one of its own.
    """
    with Launcher(run / "logs", screen=io.StringIO()) as launcher:
        fleet = Fleet(launcher, served, run / "fleet", security=security)
        asyncio.run(fleet.heal())
        yield fleet
