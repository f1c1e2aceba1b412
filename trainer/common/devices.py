"""CUDA devices by the driver's list, and what CUDA_VISIBLE_DEVICES leaves of them.

Read without CUDA: commands that only start others stay light, and take no memory on a device.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.common.errors import InputError

VARIABLE = "CUDA_VISIBLE_DEVICES"
NO_DEVICES = "NoDevFiles"
MIG_PREFIX = "MIG-"
LIST_S = 30.0
PROC_DEVICES = Path("/proc/driver/nvidia/gpus")

DeviceList = Callable[[], Sequence[str]]


def driver_devices() -> list[str]:
    """UUID of every device in the order of PCI_BUS_ID, as nvidia-smi lists them; [] without one."""
    try:
        listed = subprocess.run(
            ("nvidia-smi", "-L"), capture_output=True, text=True, timeout=LIST_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        # A container without the driver's tools: the number is known, the names are not.
        return [""] * (len(list(PROC_DEVICES.iterdir())) if PROC_DEVICES.is_dir() else 0)
    # A device's MIG instances are listed indented, below it.
    return re.findall(r"^GPU \d+:.*\(UUID: (GPU-[^)]+)\)", listed, re.MULTILINE)


def names_mig(visible: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES names an instance of a MIG device."""
    return MIG_PREFIX in (visible or "")


def device_indices(visible: str, devices: DeviceList = driver_devices) -> list[int]:
    """CUDA_VISIBLE_DEVICES as indices; a device's UUID may be cut short, as CUDA allows.

    Raises:
        InputError: for an instance of a MIG device, and for what is no device of the list.
    """
    parts = _parts(visible)
    if names_mig(visible):
        raise InputError(
            f"{VARIABLE} must be devices for the deepspeed command, got {visible}. It cannot start "
            "a rank on an instance of a MIG device: run one rank without it, python -m "
            "trainer.main, which takes the first instance."
        )
    if all(part.isdecimal() for part in parts):
        return [int(part) for part in parts]
    uuids = devices()
    return [_index(part, uuids, visible) for part in parts]


def num_visible_devices(visible: str | None, devices: DeviceList = driver_devices) -> int:
    """Devices that a process may use, `visible` being its CUDA_VISIBLE_DEVICES."""
    if visible is None:
        return len(devices())
    # As Ray counts: no more than the driver's devices, instances of MIG among what is named.
    named = [part for part in _parts(visible) if part != NO_DEVICES]
    return min(len(devices()), len(named))


def _parts(visible: str) -> list[str]:
    """What the variable names; CUDA reads no further than an index that is no device's."""
    parts = [part.strip() for part in visible.split(",") if part.strip()]
    return parts[: parts.index("-1")] if "-1" in parts else parts


def _index(part: str, uuids: Sequence[str], visible: str) -> int:
    found = [index for index, uuid in enumerate(uuids) if uuid.startswith(part)]
    if len(found) != 1:
        raise InputError(
            f"{VARIABLE} must be indices or UUIDs of this machine's devices "
            f"({', '.join(filter(None, uuids)) or 'none by nvidia-smi -L'}), got {visible}. "
            "Give the indices."
        )
    return found[0]
