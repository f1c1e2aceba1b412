"""Weights of our own modules on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainer.common.errors import InputError


def load_state(path: Path, expected: Mapping[str, tuple[int | None, ...]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must have these names and shapes and no others.

    Raises:
        FileNotFoundError: if there is no file.
        InputError: if it is not safetensors, or holds anything else.
    """
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} must be safetensors, got: {error}.") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if shapes != dict(expected):
        raise InputError(
            f"{path} must hold {dict(expected)} as its config says, got {shapes}. Export the model "
            "again."
        )
    return state
