"""The state file of the fleet, and the keeper process that owns a local Ray cluster.

`up` starts the keeper detached; the keeper starts Ray, and Ray ends with it. Until `up` sends KEEP,
the keeper ends as soon as `up` does, for whatever reason.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from teacher_server.fleet.groups import kind_of
from teacher_server.fleet.options import KEEP
from teacher_server.fleet.ray_private import ON_LOOPBACK
from teacher_server.fleet.room import ReplicaNeed
from trainer.common.atomic import write_json
from trainer.common.errors import InputError, MachineError, MissingError, UnreachableError
from trainer.common.ports import port_holder
from trainer.security.addresses import address_of
from trainer.security.credentials import NO_SECURITY, SecurityFiles

FIRST_VERSION = "1"
TOKEN_NAME = "auth_token"
RAY_NAME = "ray"
FOLDER_PREFIX = "conkd-ray-"
# Ray adds some 63 characters to its folder, and a socket's path has at most 107.
MAX_TEMPORARY_PATH = 20
KEEPER_START_S = 90.0
KEEPER_STOP_S = 20.0
# Nothing of ours lies there: replies go from a replica's gRPC server to the student.
OBJECT_STORE_BYTES = 120 << 20
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True)
class FleetState:
    """The fleet that `up` started: its addresses, its options and what `down` must stop."""

    ray_address: str
    directory: str
    """host:port of the Directory, the one address that students need."""
    cluster_id: str = ""
    """Of the Ray cluster, another one at each start of its head; empty: not recorded."""
    keeper_pid: int = 0
    """The process that owns the local Ray cluster; 0 on an existing cluster."""
    keeper_start: str = ""
    """`start_of` that process: the pid alone may belong to another process by now."""
    owns_serve: bool = False
    """Whether Ray Serve was not running before."""
    auth_token_path: str = ""
    """The local cluster's own token; empty on an existing cluster, whose token Ray's environment
    variables give."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of the replicas of each group (groups.py): fields of ReplicaOptions."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the Serve deployment of each group whose replicas were replaced: `version_of`."""
    retiring: Mapping[str, float] = field(default_factory=dict)
    """Groups that another one of their kind has followed, and the seconds without a stream of a
    student after which their replicas end."""
    batch_limits: Mapping[str, Any] = field(default_factory=dict)
    scaling: Mapping[str, float] = field(default_factory=dict)
    """Targets of autoscaled kinds: fields of ScalingTarget."""
    security: SecurityFiles = NO_SECURITY
    """Files that protect the fleet's gRPC servers, and with which the commands call them."""
    authorities: Sequence[str] = field(default_factory=list)
    """Fingerprints of the CAs in `ca.pem` when the fleet was started or last rolled."""

    def version_of(self, group: str) -> str:
        """Replicas of a group that were started under another version are replaced by Serve."""
        return self.versions.get(group, FIRST_VERSION)

    @property
    def current(self) -> dict[str, str]:
        """Kind -> the group that new students take."""
        return {kind_of(group): group for group in self.options if group not in self.retiring}

    @property
    def retiring_weights(self) -> dict[str, list[str]]:
        """Kind -> digests of the weights that new students should not take."""
        found: dict[str, list[str]] = {}
        for group in self.retiring:
            digest = self.options[group]["pin"]["weights_digest"]
            current = self.options[self.current[kind_of(group)]]["pin"]["weights_digest"]
            if digest != current:
                found.setdefault(kind_of(group), []).append(digest)
        return found

    @property
    def needs(self) -> dict[str, ReplicaNeed]:
        """What Ray sets aside for a replica of each group."""
        return {
            group: ReplicaNeed(
                num_cpus=it["num_cpus"],
                num_gpus=it["num_gpus"],
                resources=it.get("resources", {}),
            )
            for group, it in self.options.items()
        }


def read_state(path: Path) -> FleetState:
    """The fleet that is up.

    Raises:
        MissingError: if none is.
        InputError: if the file is not a record of this version.
    """
    if not path.is_file():
        raise MissingError(
            f"a fleet must be up, got no {path}. Start one with: python -m teacher_server up "
            "--dialogue DIR --recommendation DIR (or give its file with --fleet)"
        )
    try:
        content = json.loads(path.read_text())
        if "versions" not in content:
            raise KeyError("versions")
        return FleetState(**content | {"security": SecurityFiles(**content["security"])})
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} must be the record of a fleet of this version, got: {error!r}. End the "
            "process of its keeper_pid, if one is named there, and remove the file."
        ) from error


def write_state(path: Path, state: FleetState) -> None:
    """Record the fleet."""
    write_json(path, dataclasses.asdict(state))


def is_alive(state: FleetState) -> bool:
    """Whether the keeper of a local fleet still runs; always True on an existing cluster."""
    return not state.keeper_pid or _keeper(state) is not None


def check_reachable(address: str) -> None:
    """Raise UnreachableError unless something listens at the Ray cluster's host:port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # "auto" and the like: Ray resolves it.
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise UnreachableError(
            f"a Ray cluster must be reachable at {address}, got: {error}. "
            "Start it, or leave --address and RAY_ADDRESS out to start one on this machine."
        ) from error


def check_port_free(host: str, port: int) -> None:
    """Raise MachineError if something listens on host:port already."""
    address = address_of(host, port)
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            # As the server itself binds: a port whose connections only just closed is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise MachineError(
                f"the Directory's address {address} must be one that this machine can listen on, "
                f"got: {error.strerror}. Choose another --host or --port."
            ) from error
        raise MachineError(
            f"the Directory's address {address} must be free, got one of {port_holder(port)}. "
            "Choose another with --port, or stop what holds it."
        ) from error


class Keeper:
    """A keeper that was just started and would end with us."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, log: IO[str]) -> None:
        self.auth_token_path = folder / TOKEN_NAME
        self._process = process
        self._folder = folder
        self._log = log

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        return self._process.pid

    def wait_for_address(self) -> str:
        """The address of the Ray cluster, once it is up.

        Raises:
            MachineError: if Ray did not start.
        """
        assert self._process.stdout is not None
        deadline_s = time.monotonic() + KEEPER_START_S
        while not select.select([self._process.stdout], [], [], 0.2)[0]:
            if time.monotonic() > deadline_s:
                raise MachineError(f"Ray must start within {KEEPER_START_S:.0f} s, got no answer.")
        address = self._process.stdout.readline().strip()
        if not address:
            self._log.seek(0)
            lines = self._log.read().strip().splitlines() or ["no message"]
            raise MachineError(f"Ray must start on this machine, got: {lines[-1]}")
        return address

    def keep(self) -> None:
        """Let the keeper outlive us."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{KEEP}\n")
        self._process.stdin.close()

    def stop(self) -> None:
        """End the keeper and with it Ray."""
        if self._process.poll() is None:
            stop_tree(psutil.Process(self.pid))
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def start_keeper(*, num_cpus: int, on_loopback: bool) -> Keeper:
    """Start the keeper in a session of its own, where no Ctrl-C of ours reaches it.

    `on_loopback`: all of the cluster listens on 127.0.0.1, and needs no other address.
    """
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= ON_LOOPBACK if on_loopback else {}
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    # It would kill teachers for the memory of the students, of which Ray knows nothing.
    environment.setdefault("RAY_memory_monitor_refresh_ms", "0")
    # Ray's own 15 leaves a teacher next to nothing of a core beside a student.
    environment.setdefault("RAY_worker_niceness", "0")
    # A private folder that is removed with the cluster: no other Ray finds this one. The token
    # keeps others on the network out; ~/.ray is neither read nor written.
    temporary = tempfile.gettempdir()
    where = temporary if len(temporary) <= MAX_TEMPORARY_PATH else "/tmp"
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=where))
    token_path = folder / TOKEN_NAME
    token_path.touch(mode=0o600)
    token_path.write_text(secrets.token_hex(32))
    environment |= token_environment(token_path)
    command = [sys.executable, "-m", "teacher_server", "keep"]
    command += [f"--num-cpus={num_cpus}", f"--folder={folder}"]
    log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - the keeper's stderr
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment,
        text=True,
        start_new_session=True,
    )
    return Keeper(process, folder, log)


def token_environment(token_path: Path | str) -> dict[str, str]:
    """The variables that make Ray demand, and present, the token in a file."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)}


def stop_keeper(state: FleetState) -> None:
    """End the keeper of a local fleet, if it runs, and everything that it started."""
    keeper = _keeper(state) if state.keeper_pid else None
    if keeper is not None:
        stop_tree(keeper)


def clear_folder(state: FleetState) -> None:
    """Remove the folder of a local cluster; a keeper that was killed has left it behind."""
    folder = Path(state.auth_token_path).parent
    if state.auth_token_path and folder.name.startswith(FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def stop_tree(process: psutil.Process) -> None:
    """End a process by its id, with SIGTERM and then SIGKILL, and wait for all its descendants."""
    try:
        family = [process, *process.children(recursive=True)]
        process.terminate()
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(family, timeout=KEEPER_STOP_S)
    # Ray's processes end with their parent; kill the descendants that did not.
    for left in alive:
        left.kill()
    psutil.wait_procs(alive, timeout=KEEPER_STOP_S)


def start_of(pid: int) -> str:
    """When a process started: the boot, and the clock ticks since then.

    Unlike a time of day it does not move when the clock is set (psutil's does). Empty: no process.
    """
    try:
        # The name before it, in brackets, may hold spaces: field 22 is the 20th after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return f"{BOOT_ID.read_text().strip()} {fields[19]}"


def _keeper(state: FleetState) -> psutil.Process | None:
    try:
        process = psutil.Process(state.keeper_pid)
        same = start_of(state.keeper_pid) == state.keeper_start
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
