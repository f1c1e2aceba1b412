"""Free TCP ports for commands that are about to start."""

from __future__ import annotations

import secrets
import socket

from trainer.common.errors import MachineError

# Below Linux's default ephemeral range and above the ports that Ray picks.
PORTS = range(20_000, 32_000)
TRIES = 100


def free_port(in_a_row: int = 1) -> int:
    """The first of `in_a_row` TCP ports on which nothing listens on this machine.

    Outside the ephemeral range, so the kernel cannot hand the port to another process meanwhile.

    Raises:
        MachineError: if none is found.
    """
    for _ in range(TRIES):
        first = PORTS.start + secrets.randbelow(len(PORTS) - in_a_row + 1)
        if all(_is_free(port) for port in range(first, first + in_a_row)):
            return first
    raise MachineError(
        f"{in_a_row} ports in a row must be free in [{PORTS.start}, {PORTS.stop}), got none in "
        f"{TRIES} tries. List the listening sockets of this machine with: ss -ltn"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
