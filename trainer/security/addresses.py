"""Addresses of servers: host:port, with brackets around the host of an IPv6 address."""

from __future__ import annotations

import ipaddress

from trainer.common.errors import InputError

MAX_PORT = 65535


def is_loopback(host: str) -> bool:
    """Whether only processes of the same machine can reach the host.

    A name other than localhost is not, whatever it begins with: 127.example.org is a public one.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host of host:port; the whole of what has no port."""
    host, colon, _ = address.rpartition(":")
    return (host if colon else address).removeprefix("[").removesuffix("]")


def port_of(address: str) -> int:
    """The port of host:port."""
    return int(address.rpartition(":")[2])


def address_of(host: str, port: int) -> str:
    """host:port, as gRPC and URLs take it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_address(what: str, address: str) -> None:
    """Raise InputError unless the address is host:port with a port that there can be."""
    host, colon, port = address.rpartition(":")
    is_bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    is_port = port.isascii() and port.isdigit() and 1 <= int(port) <= MAX_PORT
    if not (host and colon and is_port) or is_bare:
        raise InputError(
            f"{what} must be HOST:PORT with a port of 1 to {MAX_PORT}, got {address!r}. Write an "
            "IPv6 address as [::1]:50051."
        )
