"""A model's layers on several devices of one process: which lies where, and how states get there.

Layers lie in the order of the forward, so that the states of a batch cross from each device to the
next one once. One device computes at a time: this makes room for a model, and is no faster.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils.modeling import compute_module_sizes
from transformers import PreTrainedModel

from trainer.common.errors import InputError

# Of the weights: how near the largest part comes to the least that is possible.
PRECISION = 1000
NOWHERE = "disk"


def device_map(
    model: PreTrainedModel, devices: Sequence[torch.device], folder: Path
) -> dict[str, torch.device]:
    """Module name -> device; the largest part is as small as whole layers in their order allow.

    A function of the model and the number of devices alone, not of the memory that is free. A head
    whose weight is the embedding's lies with it, on the first.

    Raises:
        InputError: if a device would get nothing.
    """
    if len(devices) == 1:
        return {"": devices[0]}
    parts = _least_parts(model, len(devices))
    num_used = len(set(parts.values()))
    if num_used < len(devices):
        raise InputError(
            f"the model in {folder} must have a part for each of {len(devices)} GPUs, got "
            f"{num_used} parts: its largest module is larger than an equal part. Give its replicas "
            f"{num_used}."
        )
    return {name: devices[part - 1] for name, part in parts.items()}


def join_(model: PreTrainedModel, placed: Mapping[str, torch.device], first: torch.device) -> None:
    """Let each module fetch its inputs to its device; the weights are there already."""
    dispatch_model(model, dict(placed), main_device=first, force_hooks=True)


def _least_parts(model: PreTrainedModel, num_parts: int) -> dict[str, Any]:
    """Module name -> part, from 1, filled one after the other up to the least common limit.

    accelerate's own limit (get_balanced_memory) leaves devices empty: of a GPT-2 of 12 layers and
    57,184 rows it puts all on the last of four, of a Llama of 32 nothing on the last of eight.
    """
    total = compute_module_sizes(model)[""]
    # Too small, and surely enough.
    low, high = total // num_parts - 1, total + 1
    while high - low > max(1, total // PRECISION):
        limit = (low + high) // 2
        if NOWHERE in _filled(model, num_parts, limit).values():
            low = limit
        else:
            high = limit
    return _filled(model, num_parts, high)


def _filled(model: PreTrainedModel, num_parts: int, limit: int) -> dict[str, Any]:
    # Number 0 has no room: there accelerate holds some free for layers that it would fetch from
    # elsewhere, which we never do.
    room: dict[int | str, int | str] = {0: 0, **dict.fromkeys(range(1, num_parts + 1), limit)}
    layers = [str(name) for name in model._no_split_modules or ()]
    with _no_warning_of_absent_devices():
        return dict(infer_auto_device_map(model, room, layers, clean_result=False))


@contextmanager
def _no_warning_of_absent_devices() -> Iterator[None]:
    """Its numbers are those of our parts."""
    logger = logging.getLogger("accelerate.utils.modeling")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
