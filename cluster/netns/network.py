"""A bridge in a namespace of its own, and the cable of each host to it. No way leads out."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from cluster.netns.tools import call
from trainer.common.errors import InputError, MachineError

# Each lab has a bridge of its own, so several may have the same addresses.
SUBNET = "10.77.0"
GATEWAY = f"{SUBNET}.1"
FIRST = 2
MAX_HOSTS = 200
# A token bucket holds so much of a second; packets of 64 KiB must fit at any rate.
BURST_S = 0.005
MIN_BURST_BYTES = 1 << 17


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What a link carries each way; None: what the machine does."""

    mbit: float | None = None
    delay_ms: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("rate_mbit", self.mbit), ("delay_ms", self.delay_ms)):
            if value is not None and not value > 0:
                raise InputError(f"{name} must be over 0, or None, got {value}.")


class Cable:
    """The link between a host and the bridge. It stays as it was set when the host starts anew."""

    def __init__(self, bridge_pid: int, number: int) -> None:
        self.address = f"{SUBNET}.{FIRST + number}"
        self._bridge = ("nsenter", "-n", "-t", bridge_pid)
        self._port = f"port{number}"
        # Others remember it for a while: a host has the same one when it starts again.
        self._hardware = f"02:00:0a:4d:00:{FIRST + number:02x}"
        self._host: tuple[str | int, ...] | None = None
        self._plugged = True
        self._rate = Rate()

    def attach(self, pid: int) -> None:
        """Give a host that starts its end of the cable."""
        self._host = ("nsenter", "-n", "-t", pid)
        ends = ("ip", "link", "add", "name", self._port, "type", "veth", "peer", "name", "eth0")
        call(*self._bridge, *ends, "address", self._hardware, "netns", pid)
        call(*self._bridge, "ip", "link", "set", self._port, "master", "bridge")
        call(*self._host, "ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        call(*self._host, "ip", "link", "set", "eth0", "up")
        # As on real machines. What goes there is refused at once: no resolver waits for it.
        call(*self._host, "ip", "route", "add", "default", "via", GATEWAY)
        self._apply_rate()
        self._set(up=self._plugged)

    def detach(self) -> None:
        """Nothing of what the host sends now arrives.

        The end of its namespace would remove both ends, but is late: connections of processes that
        were killed hold it until their last bytes are given up.
        """
        call(*self._bridge, "ip", "link", "delete", self._port)
        self._host = None

    def plug(self, *, plugged: bool) -> None:
        """Cut or mend the link."""
        self._plugged = plugged
        if self._host is not None:
            self._set(up=plugged)

    def limit(self, rate: Rate) -> None:
        """Limit the link in both directions."""
        self._rate = rate
        if self._host is not None:
            self._apply_rate()

    def _set(self, *, up: bool) -> None:
        call(*self._bridge, "ip", "link", "set", self._port, "up" if up else "down")

    def _apply_rate(self) -> None:
        assert self._host is not None
        for where, device in ((self._bridge, self._port), (self._host, "eth0")):
            with contextlib.suppress(MachineError):  # it had no limit
                call(*where, "tc", "qdisc", "delete", "dev", device, "root")
            queueing = discipline(self._rate)
            if queueing:
                call(*where, "tc", "qdisc", "add", "dev", device, "root", *queueing)


def discipline(rate: Rate) -> tuple[str, ...]:
    """What `tc` is told; a delay needs the kernel's netem, which some machines have not."""
    limit = () if rate.mbit is None else ("rate", f"{rate.mbit}mbit")
    if rate.delay_ms is not None:
        return ("netem", *limit, "delay", f"{rate.delay_ms}ms", "limit", "100000")
    if rate.mbit is None:
        return ()
    burst = max(MIN_BURST_BYTES, int(rate.mbit * 1e6 / 8 * BURST_S))
    return ("tbf", *limit, "burst", str(burst), "latency", "100ms")


def make_bridge(pid: int) -> None:
    """Make the bridge in the network namespace of a process."""
    there = ("nsenter", "-n", "-t", pid)
    call(*there, "ip", "link", "add", "name", "bridge", "type", "bridge")
    call(*there, "ip", "address", "add", f"{GATEWAY}/24", "dev", "bridge")
    call(*there, "ip", "link", "set", "bridge", "up")
    # It answers "unreachable" for what is not of this network, where it would be silent else.
    call(*there, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
