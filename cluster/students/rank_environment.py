"""The environment of a node's launcher and ranks, right by construction."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.common.devices import VARIABLE, device_indices, num_visible_devices
from trainer.common.interfaces import interface_of
from trainer.engine.own_interface import INTERFACE_VARIABLES


def rank_environment(
    start: Mapping[str, str], *, address: str, slots: int, devices: int, cpus: int, python: Path
) -> dict[str, str]:
    """What the launcher of a node gets.

    Args:
        start: environment with which the process here was started: Ray changes it later, and sets
            OMP_NUM_THREADS, and CUDA_VISIBLE_DEVICES for processes without a GPU of Ray's.
        address: of this node in the cluster.
        slots: ranks of this node.
        devices: GPUs that they may use.
        cpus: of this node.
        python: the interpreter, beside which the environment's programs lie.

    Raises:
        MachineError: if no interface of this machine has the address.
    """
    kept = {name: value for name, value in start.items() if not name.startswith("RAY_")}
    interface = interface_of(address)
    path = kept.get("PATH", os.defpath)
    return {
        # Ranks would listen at what their machine's name means, 127.0.1.1 on Debian.
        **dict.fromkeys(INTERFACE_VARIABLES, interface),
        "DS_ACCELERATOR": "cuda" if devices else "cpu",
        "OMP_NUM_THREADS": str(max(1, cpus // slots)),
        **kept,
        # Not the system's ninja and compilers' wrappers, but those of this environment.
        "PATH": f"{python.parent}{os.pathsep}{path}",
        "PYTHONUNBUFFERED": "1",
    }


def rank_devices(start: Mapping[str, str], slots: int) -> Sequence[int]:
    """Indices of the devices of a node's ranks, as the launcher takes them."""
    visible = start.get(VARIABLE)
    return list(range(slots)) if visible is None else device_indices(visible)[:slots]


def num_devices(start: Mapping[str, str]) -> int:
    """GPUs of this node that its user left to the ranks."""
    return num_visible_devices(start.get(VARIABLE))
