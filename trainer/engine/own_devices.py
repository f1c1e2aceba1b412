"""The ranks of a node sit on devices that CUDA_VISIBLE_DEVICES of their user allowed.

The `deepspeed` command ignores and deletes that variable beside --num_accelerators, --num_gpus and
--include; its launcher then sets one of its own for the ranks.
"""

from __future__ import annotations

import os

import psutil
from deepspeed.accelerator import get_accelerator

from trainer.common.devices import VARIABLE, DeviceList, device_indices, driver_devices
from trainer.common.errors import InputError
from trainer.engine.launcher_watch import launching_processes


def check_devices() -> None:
    """Raise InputError if a rank of this node sits where its user allowed none.

    Every rank of a node finds the same.
    """
    accelerator = get_accelerator()
    assert accelerator is not None
    started = launching_processes()
    if accelerator.device_name() != "cuda" or not started:
        return
    try:
        given = started[-1].environ().get(VARIABLE)
    except psutil.Error:
        return  # Another user's process: nothing is known of what was allowed.
    check_allowed(given, os.environ.get(VARIABLE, ""))


def check_allowed(given: str | None, taken: str, devices: DeviceList = driver_devices) -> None:
    """Raise InputError unless all devices of the ranks are among those given.

    Args:
        given: CUDA_VISIBLE_DEVICES as the `deepspeed` command got it; None or empty: all devices.
        taken: the one that its launcher has set for the ranks.
        devices: the driver's list.
    """
    if not given:
        return
    allowed = device_indices(given, devices)
    ranks = device_indices(taken, devices)
    if not set(ranks) <= set(allowed):
        count = min(len(ranks), len(allowed))
        include = ",".join(map(str, allowed[:count]))
        raise InputError(
            f"the ranks must sit on devices of {VARIABLE}={given}, got {taken}: deepspeed ignores "
            "the variable beside --num_accelerators, --num_gpus and --include. Give it --include "
            f"localhost:{include} instead."
        )
