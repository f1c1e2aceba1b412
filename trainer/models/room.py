"""Whether the weights of a model fit this machine, before a byte of them is there."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from trainer.common.errors import InputError
from trainer.common.machine import memory_bytes

GIB = 1 << 30


def module_bytes(build: Callable[[int], nn.Module], num_layers: int) -> float:
    """Bytes of a module's parameters and buffers; infinite beyond what torch can count.

    Built twice on the meta device, whose tensors have no memory: with one layer and with two.

    Args:
        build: makes the module with so many layers, all alike.
        num_layers: of the module that is meant.
    """
    try:
        with torch.device("meta"):
            first, second = (_bytes(build(layers)) for layers in (1, 2))
    except (RuntimeError, TypeError, OverflowError) as error:
        if "overflow" not in str(error).lower():
            raise
        return math.inf
    return first + (num_layers - 1) * (second - first)


def check_fits(what: str, num_bytes: float) -> None:
    """Raise InputError if weights of so many bytes exceed this machine's memory."""
    memory = memory_bytes()
    if num_bytes > memory:
        raise InputError(
            f"{what} must fit this machine's {memory / GIB:,.1f} GiB of memory, got weights of "
            f"{num_bytes / GIB:,.1f} GiB. Choose smaller sizes."
        )


def _bytes(module: nn.Module) -> int:
    held = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in held.values())
