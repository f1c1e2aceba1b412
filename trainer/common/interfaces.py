"""Network interfaces of this machine, by their addresses."""

from __future__ import annotations

import ipaddress
import socket

import psutil

from trainer.common.errors import MachineError

ANY_PORT = 9
# Of documentation networks (RFC 5737): nobody is there, and nothing is sent.
ELSEWHERE = "192.0.2.1"


def interface_of(address: str) -> str:
    """Name of the interface that has an address; MachineError if none has."""
    addresses = psutil.net_if_addrs()
    for name, each in addresses.items():
        if any(one.address.partition("%")[0] == address for one in each):
            return name
    raise MachineError(
        f"an address of this machine must be one of its interfaces', got {address} and interfaces "
        f"{', '.join(sorted(addresses))}. Give this machine's address in that network."
    )


def own_address_towards(host: str) -> str | None:
    """The address with which this machine would send to a host; None: it has no way there."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # For a datagram socket this looks the route up alone.
            probe.connect((host, ANY_PORT))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def is_own_loopback(address: str) -> bool:
    """Whether other machines cannot reach this address."""
    return ipaddress.ip_address(address).is_loopback
