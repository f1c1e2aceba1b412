"""The cluster of the proof: Ray on hosts in namespaces, a fleet on it, and students beside it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from cluster.netns.environment import HOME
from cluster.netns.host import Host, HostProcess
from cluster.netns.lab import Lab
from teacher_server.fleet.certificates import make_certificates
from trainer.common.errors import MachineError
from trainer.kinds.names import DIALOGUE, RECOMMENDATION

HEAD, TEACHER, STUDENT = "head", "teacher", "student"
RAY_PORT, DIRECTORY_PORT, RANKS_PORT = 6379, 50051, 29500
REPLICA_PORTS = "50100-50199"
COMMAND_S = 300.0
POLL_S = 0.5
FLEET = Path("/shared/fleet.json")
SECRETS = ("server.pem", "server.key", "client.pem", "client.key")
# As in the cluster's files: what the control plane holds outlives the head's power.
ON_DISK = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": f"{HOME}/.ray/gcs"}
RAY: Mapping[str, str] = {
    "RAY_AUTH_MODE": "token",
    # Teachers outlive an absence of the head, on which nothing of theirs depends.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "3600",
    # A host without power is given up after 15 s, not after 65.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
    # As in a local cluster of `up`: other processes share the cores and the memory.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",
}


class Machines:
    """Hosts of a lab: a head, teacher hosts and student hosts, by the beginnings of their names."""

    def __init__(self, lab: Lab, shared: Path, replicas: Mapping[str, int]) -> None:
        """`shared` is the folder that all see at /shared, as this machine sees it."""
        self.lab = lab
        self.shared = shared
        self.replicas = ",".join(f"{kind}={count}" for kind, count in replicas.items())
        self.kinds = tuple(replicas)
        self._num_students = 0
        self.none = ",".join(f"{kind}=0" for kind in replicas)

    @property
    def head(self) -> Host:
        """The host of Ray's control plane and of the Directory."""
        return self.lab[HEAD]

    def names(self, role: str) -> list[str]:
        """The hosts whose names begin so."""
        return [it for it in self.lab if it.startswith(role)]

    def start(self) -> None:
        """Secrets of two authorities that trust each other, Ray everywhere, and the fleet."""
        self._make_secrets()
        self.start_ray(HEAD)
        self.on_teachers(self.start_ray)
        self.up()

    def on_teachers(self, act: Callable[[str], None]) -> None:
        """Do the same on all teacher hosts, side by side; the first error of one of them."""
        with ThreadPoolExecutor() as pool:
            done = [pool.submit(act, name) for name in self.names(TEACHER)]
        for each in done:
            each.result()

    def start_ray(self, name: str) -> None:
        """Start Ray on a host that has power, as the cluster's files do."""
        host = self.lab[name]
        where = (
            *(f"--node-ip-address={host.address}", "--object-store-memory=100000000"),
            # Nobody reads here what is printed elsewhere.
            "--include-log-monitor=false",
        )
        of_head = (f"--port={RAY_PORT}", "--num-cpus=0", '--resources={"head": 1}')
        of_teacher = (
            f"--address={self.head.address}:{RAY_PORT}",
            *("--num-cpus=4", '--resources={"teacher": 1}'),
        )
        role = ("--head", *of_head, "--include-dashboard=false") if name == HEAD else of_teacher
        env = {**RAY, **(ON_DISK if name == HEAD else {})}
        host.run("ray", "start", *where, *role, "--num-gpus=0", env=env, timeout_s=COMMAND_S)

    def up(self) -> None:
        """Start the fleet, spread over the teacher hosts."""
        folders = (f"--{kind}=/shared/teachers/{kind}" for kind in (DIALOGUE, RECOMMENDATION))
        self.teachers(
            *("up", "--address", "auto", "--host", "0.0.0.0", "--port", str(DIRECTORY_PORT)),
            *("--tls", "/shared/tls-server", "--token-file", "/shared/token"),
            *(*folders, "--replicas", self.replicas, "--replica-ports", REPLICA_PORTS),
            *("--deterministic", "--timeout", str(COMMAND_S)),
        )

    def teachers(self, *arguments: str) -> str:
        """The output of a command of `python -m teacher_server`, on the head."""
        command = ("python", "-m", "teacher_server", *arguments, "--fleet", str(FLEET))
        return self.head.run(*command, env=RAY, timeout_s=2 * COMMAND_S).stdout

    def kill(self, title: str, role: str) -> str:
        """SIGKILL for the first process with such a title on such hosts; the host's name."""
        for name in self.names(role):
            for process in self._processes(name, title):
                os.kill(process.pid, signal.SIGKILL)
                return name
        raise MachineError(f"a process {title} must run on a {role} host, got none.")

    def spread(self) -> dict[str, int]:
        """Kind -> hosts that have a replica of it."""
        hosts = self.names(TEACHER)
        return {
            kind: sum(bool(self._processes(name, replica_title(kind))) for name in hosts)
            for kind in self.kinds
        }

    def wait_for_directory(self) -> None:
        """Return once the Directory's process runs; MachineError if it does not come."""
        deadline_s = time.monotonic() + COMMAND_S
        while not self._processes(HEAD, replica_title("directory")):
            if time.monotonic() > deadline_s:
                raise MachineError(f"the Directory must run within {COMMAND_S:g} s, got none.")
            time.sleep(POLL_S)

    def new_certificates(self) -> None:
        """Servers and students get certificates of the other authority, which all trust already."""
        self._hand_out("other")

    def start_student(self, host: str, run: str, arguments: Sequence[str]) -> HostProcess:
        """Start two ranks of a script of ours on a host, into a run's folder."""
        script, *settings = arguments
        self._num_students += 1
        port = RANKS_PORT + self._num_students
        return self.lab[host].start(
            *("deepspeed", "--num_accelerators", "2", "--master_port", str(port)),
            *(f"cluster/proof/{script}", "--config", "trainer/configs/synthetic.yaml"),
            *("data=/shared/data", f"output=/shared/runs/{run}", *settings),
            log=self.shared / "runs" / f"{run}.log",
            env={"GLOO_SOCKET_IFNAME": "lo"},
        )

    def _processes(self, name: str, title: str) -> list[psutil.Process]:
        if not self.lab[name].is_on:
            return []
        running = psutil.Process(self.lab[name].pid).children(recursive=True)
        return [it for it in running if title in _title(it)]

    @property
    def to_teachers(self) -> tuple[str, ...]:
        """A student's settings for the way to the fleet."""
        return (
            f"teachers.directory={self.head.address}:{DIRECTORY_PORT}",
            "teachers.tls=/shared/tls-student",
            "teachers.token_file=/shared/token",
        )

    def _make_secrets(self) -> None:
        for name in ("first", "other"):
            make_certificates(self.shared / name, days=1)
        both = "".join((self.shared / name / "ca.pem").read_text() for name in ("first", "other"))
        for folder in ("tls-server", "tls-student"):
            (self.shared / folder).mkdir()
            (self.shared / folder / "ca.pem").write_text(both)
        self._hand_out("first")
        _write_secret(self.shared / "token", secrets.token_hex(32))
        ray_token = secrets.token_hex(32)
        for host in self.lab.values():
            (host.home / ".ray").mkdir(exist_ok=True)
            _write_secret(host.home / ".ray" / "auth_token", ray_token)

    def _hand_out(self, authority: str) -> None:
        for file in SECRETS:
            shutil.copy(self.shared / authority / file, self.shared / "tls-server" / file)
            if file.startswith("client"):
                shutil.copy(self.shared / authority / file, self.shared / "tls-student" / file)


def replica_title(kind: str) -> str:
    """How the process of a replica begins, or of the Directory."""
    return f"ray::ServeReplica:conkd-{kind}:"


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
