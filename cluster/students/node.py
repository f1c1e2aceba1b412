"""An actor on a student node: starts DeepSpeed's per-node launcher there, under a lease."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray

from cluster.launch.ports import free_port
from cluster.students.launch_guard import EXIT_LEASE_OVER
from cluster.students.lease import Lease
from cluster.students.rank_environment import num_devices, rank_devices, rank_environment
from trainer.common.errors import MachineError
from trainer.common.machine import num_cpus

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = "deepspeed.launcher.launch"
SCRIPT = "trainer/main.py"
MAX_LINES = 10_000
END_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an actor is."""

    node_id: str
    host: str
    address: str
    port: int
    """A free one, for the ranks to meet if rank 0 is here."""
    devices: int
    """GPUs."""


@dataclass(frozen=True, kw_only=True)
class NodeStart:
    """What one node of several runs."""

    node_rank: int
    nodes: int
    slots: int
    """Ranks of each node."""
    master_address: str
    master_port: int
    argv: tuple[str, ...]
    """Of trainer/main.py."""


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A node's answer."""

    token: int
    lines: tuple[str, ...]
    exit_status: int | None
    """Of the launcher; None while it runs."""

    @property
    def lease_is_over(self) -> bool:
        """Whether the node ended its ranks because no beat came."""
        return self.exit_status == EXIT_LEASE_OVER


class StudentNode:
    """The ranks of one node. Several threads of the actor call it."""

    def __init__(self) -> None:
        # As this process was started: Ray has changed os.environ since.
        self._start_environment = psutil.Process().environ()
        self._lease = Lease()
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._guard: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def place(self) -> Place:
        """Where this is."""
        return Place(
            node_id=ray.get_runtime_context().get_node_id(),
            host=socket.gethostname(),
            address=ray.util.get_node_ip_address(),
            port=free_port(),
            devices=num_devices(self._start_environment),
        )

    def token(self) -> int:
        """The token that `start` needs."""
        return self._lease.issue(time.monotonic())

    def start(self, start: NodeStart, token: int) -> int:
        """Start the launcher under the lease of a token; the next one.

        Errors of this machine are raised.
        """
        environment = rank_environment(
            self._start_environment,
            address=ray.util.get_node_ip_address(),
            slots=start.slots,
            devices=num_devices(self._start_environment),
            cpus=num_cpus(),
            python=Path(sys.executable),
        )
        devices = rank_devices(self._start_environment, start.slots)
        command = launcher_command(start, devices, sys.executable)
        with self._lock:
            self._guard = _started(command, environment)
            self._reader = threading.Thread(target=self._read, args=(self._guard,), daemon=True)
            self._reader.start()
            self._renew(token)
            return self._lease.issue(time.monotonic())

    def beat(self, token: int) -> Beat:
        """Renew the lease; what came meanwhile."""
        with self._lock:
            guard, reader = self._guard, self._reader
            assert guard is not None and reader is not None, "start comes before"
            self._renew(token)
            status = guard.poll()
            if status is not None:
                # What it said last.
                reader.join(timeout=1.0)
            lines = tuple(self._lines.popleft() for _ in range(len(self._lines)))
            return Beat(token=self._lease.issue(time.monotonic()), lines=lines, exit_status=status)

    def stop(self) -> tuple[str, ...]:
        """End all that was started here; the last lines."""
        with self._lock:
            if self._guard is not None and self._guard.stdin is not None:
                # The guard ends all without the other end of its stdin.
                self._guard.stdin.close()
                self._guard.wait(timeout=END_S)
            return tuple(self._lines)

    def _renew(self, token: int) -> None:
        until_s = self._lease.until(token)
        guard = self._guard
        if until_s is None or guard is None or guard.stdin is None or guard.stdin.closed:
            return
        try:
            guard.stdin.write(f"{until_s}\n")
            guard.stdin.flush()
        except BrokenPipeError:
            pass  # It has ended, and the next answer says how.

    def _read(self, guard: subprocess.Popen[str]) -> None:
        assert guard.stdout is not None
        for line in guard.stdout:
            self._lines.append(line.rstrip("\n"))


def launcher_command(start: NodeStart, devices: Sequence[int], python: str) -> list[str]:
    """DeepSpeed's launcher of one node, below the guard.

    The launcher counts nodes by the keys of its world, and asks nothing else of them: names of ours
    tell nodes apart that have one address.
    """
    world = {f"node-{rank}": list(range(start.slots)) for rank in range(start.nodes)}
    world[f"node-{start.node_rank}"] = list(devices)
    info = base64.urlsafe_b64encode(json.dumps(world).encode()).decode()
    return [
        *(python, "-m", "cluster.students.launch_guard"),
        *(python, "-u", "-m", LAUNCHER, "--log_level=critical"),
        f"--world_info={info}",
        f"--node_rank={start.node_rank}",
        f"--master_addr={start.master_address}",
        f"--master_port={start.master_port}",
        SCRIPT,
        *start.argv,
    ]


def _started(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise MachineError(
            f"a student node must start {command[0]}, got: {error}. Set the node up again."
        ) from error
