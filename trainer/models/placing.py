"""Weights as they are computed with: on their device, in their type, in memory of their own.

What safetensors and transformers read is a map of the file, private to nobody: whoever writes to
the file changes the model, and whoever cuts it short ends the process. So a loaded model gets
memory of its own, a piece at a time, and each piece of the map goes back before the next one is
read: a start needs the weights once, and a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.common.errors import InputError, first_line
from trainer.common.mapped_files import give_back, mapped_ranges
from trainer.kinds.names import BF16, FLOAT32, FP16

CPU = torch.device("cpu")
PIECE_BYTES = 16 << 20
SUFFIX = ".safetensors"
DTYPES = {FLOAT32: torch.float32, BF16: torch.bfloat16, FP16: torch.float16}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model computes, and in which type."""

    device: torch.device = CPU
    """Of its inputs, and of all of it unless there are further ones."""
    further: tuple[torch.device, ...] = ()
    """Over which a causal language model of Hugging Face spreads, too."""
    dtype: str = FLOAT32
    """Name of the type of its weights and of its forward, one of DTYPES."""


PLAIN = Placement()
"""The CPU, in float32."""


def place_(
    module: nn.Module,
    placement: Placement,
    folder: Path,
    device_of: Mapping[str, torch.device] | None = None,
) -> None:
    """Give every parameter and buffer memory of its own, as the placement says.

    Weights, which are what a state dict holds, change their type; buffers that are computed from
    the config only move. Tied parameters stay tied.

    Args:
        module: just read; nobody else may hold its tensors.
        folder: what it was read from, for an error.
        device_of: name of a module -> device of all in it; what is in none lies on the placement's.

    Raises:
        InputError: if a weight is too large for fp16.
    """
    ranges = mapped_ranges(SUFFIX)
    weights = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        is_cast = id(tensor) in weights and tensor.is_floating_point()
        dtype = DTYPES[placement.dtype] if is_cast else tensor.dtype
        device = _device(name, device_of or {}, placement.device)
        tensor.data = _own(tensor.data, device, dtype, ranges)
        if placement.dtype == FP16 and is_cast and not tensor.isfinite().all():
            raise InputError(
                f"the weights in {folder} must be at most {torch.finfo(dtype).max:,.0f} to be held "
                f"in fp16, got larger ones. Take {BF16} or {FLOAT32}."
            )


def check_computes(placement: Placement, folder: Path, forward: Callable[[], Tensor]) -> None:
    """Refuse a type in which torch cannot run this model on its device, or overflows.

    Args:
        forward: of a few tokens; returns what must be finite.

    Raises:
        InputError: naming the type; never in float32 on one device, whose errors are those of the
            model.
    """
    if placement.dtype == FLOAT32 and not placement.further:
        return
    problem = ""
    try:
        if not forward().isfinite().all():
            problem = "its states are not finite"
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        problem = first_line(error)
    if problem:
        count = f"{1 + len(placement.further)} x " if placement.further else ""
        remedy = f"Take {FLOAT32}" + (" or one GPU." if count else ".")
        raise InputError(
            f"the model in {folder} must compute in its dtype on {count}{placement.device.type}, "
            f"got {placement.dtype}: {problem}. {remedy}"
        )


def _device(
    name: str, device_of: Mapping[str, torch.device], otherwise: torch.device
) -> torch.device:
    """That of the innermost module that holds a tensor and has one."""
    while name and name not in device_of:
        name = name.rpartition(".")[0]
    return device_of.get(name, otherwise)


def _own(
    source: Tensor, device: torch.device, dtype: torch.dtype, ranges: Sequence[range]
) -> Tensor:
    """A copy of a tensor; the pages of the mapped file that it lay in are given back.

    All of them after each piece: the kernel maps the neighbours of a page that is read, too (2 MiB
    where its cache has large pages), and among them are tensors that were copied before.
    """
    if not source.is_contiguous():
        return source.to(device, dtype, copy=True)
    target = torch.empty(source.shape, dtype=dtype, device=device)
    number = max(1, PIECE_BYTES // source.element_size())
    mapped = next((it for it in ranges if source.data_ptr() in it), range(0))
    for new, old in zip(target.view(-1).split(number), source.view(-1).split(number), strict=True):
        new.copy_(old)
        give_back(mapped.start, len(mapped), ranges)
    return target
