"""A network that can be cut: students, a router and teachers in network namespaces of their own.

Nothing leaves these namespaces. A cut is a black hole in the router: packets vanish both ways, and
both ends keep their links and sockets, as if a cable behind the next switch was pulled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.bench.fleet.fleet import Host
from trainer.common.errors import MachineError

# Reserved for documentation (RFC 5737): no real host can be meant.
STUDENT_HOST, STUDENT_GATE = "192.0.2.2", "192.0.2.1"
TEACHER_HOST, TEACHER_GATE = "198.51.100.2", "198.51.100.1"


@dataclass(frozen=True, kw_only=True)
class Network:
    """Two ends and the router between them."""

    student: Host
    teachers: Host
    router: str
    """Name of its namespace."""

    def cut(self) -> None:
        """Lose every packet from now on."""
        for host in (STUDENT_HOST, TEACHER_HOST):
            _ip("-n", self.router, "route", "add", "blackhole", f"{host}/32")

    def heal(self) -> None:
        """Let packets through again."""
        for host in (STUDENT_HOST, TEACHER_HOST):
            _ip("-n", self.router, "route", "del", "blackhole", f"{host}/32")


def missing_for_network() -> str:
    """Reason why no network can be made here; empty if it can."""
    if shutil.which("ip") is None:
        return "no ip command"
    if os.geteuid() != 0:
        return "not root"
    probe = f"conkd-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
    if made.returncode:
        return "network namespaces are not allowed"
    _ip("netns", "del", probe)
    return ""


@contextlib.contextmanager
def open_network() -> Iterator[Network]:
    """Make the namespaces; they are gone afterwards.

    Raises:
        MachineError: if `ip` refuses.
    """
    student, router, teachers = (f"conkd-{os.getpid()}-{end}" for end in "srt")
    made: list[str] = []
    try:
        for name in (student, router, teachers):
            _ip("netns", "add", name)
            made.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        _connect(student, router, STUDENT_HOST, STUDENT_GATE, interface="veth-s")
        _connect(teachers, router, TEACHER_HOST, TEACHER_GATE, interface="veth-t")
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        _run(("ip", "netns", "exec", router, "sh", "-c", forward))
        yield Network(
            student=Host(address=STUDENT_HOST, prefix=("ip", "netns", "exec", student)),
            teachers=Host(address=TEACHER_HOST, prefix=("ip", "netns", "exec", teachers)),
            router=router,
        )
    finally:
        # One call, so that one more Ctrl-C finds nothing half done.
        batch = "".join(f"netns del {name}\n" for name in made)
        _run(("ip", "-force", "-batch", "-"), batch)


def _connect(end: str, router: str, host: str, gate: str, *, interface: str) -> None:
    _ip("-n", end, *("link", "add", "eth0", "type", "veth", "peer", interface, "netns", router))
    for name, device, address in ((end, "eth0", host), (router, interface, gate)):
        _ip("-n", name, "address", "add", f"{address}/30", "dev", device)
        _ip("-n", name, "link", "set", device, "up")
    _ip("-n", end, "route", "add", "default", "via", gate)


def _ip(*arguments: str) -> None:
    _run(("ip", *arguments))


def _run(argv: Sequence[str], text: str = "") -> None:
    # In a session of its own: a Ctrl-C in the terminal must not reach it.
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, check=False, start_new_session=True
    )
    if done.returncode:
        raise MachineError(f"{' '.join(argv)} must succeed, got: {done.stderr.strip()}")
