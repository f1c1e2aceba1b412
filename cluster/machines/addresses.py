"""The machines that a cluster's file names: the head, and a list for each type of node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.common.errors import InputError

PROVIDER = "cluster.machines.provider.Machines"
KEY = "addresses"


def is_of_machines(config: Mapping[str, Any]) -> bool:
    """Whether the file is of machines that one has, as ours are: their provider is `Machines`."""
    provider = config.get("provider") or {}
    return provider.get("type") == "external" and provider.get("module") == PROVIDER


def head_of(config: Mapping[str, Any]) -> str:
    """The head's address."""
    return config["provider"]["head_ip"]


def workers_of(config: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Addresses by type of node, without the head's.

    Raises:
        InputError: if a type has no list of them, or a machine is named twice.
    """
    head_type = config["head_node_type"]
    found = {
        name: _checked(name, (node_type.get("node_config") or {}).get(KEY))
        for name, node_type in config["available_node_types"].items()
        if name != head_type
    }
    named = [config["provider"].get("head_ip"), *(it for group in found.values() for it in group)]
    if named[0] is None:
        raise InputError("provider.head_ip must be an address, got none. Name the head's.")
    twice = sorted({str(it) for it in named if named.count(it) > 1})
    if twice:
        raise InputError(
            f"Each machine must be named once in the cluster's file, got more of {twice}. "
            "Take it out of one list."
        )
    return found


def _checked(node_type: str, addresses: Any) -> tuple[str, ...]:
    if isinstance(addresses, list) and all(isinstance(it, str) for it in addresses):
        return tuple(addresses)
    raise InputError(
        f"available_node_types.{node_type}.node_config.{KEY} must be a list of addresses, "
        f"got {addresses!r}. Name the machines of this type, or [] for none."
    )
