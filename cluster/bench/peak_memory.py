"""Peak and available memory of this process, in bytes."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import torch


def peak_bytes(device: torch.device) -> int:
    """The most that this process ever held: resident pages, or on a GPU what torch allocated."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not ru_maxrss: a child inherits that of its parent.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def available_bytes(device: torch.device) -> int:
    """Memory that can be had without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
