"""Weights of our own modules on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainer.common.errors import InputError, MissingError, UserError, first_line
from trainer.models.frozen import REMEDY

ModuleT = TypeVar("ModuleT")


def load_state(path: Path, expected: Mapping[str, tuple[int | None, ...]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must have these names and shapes and no others.

    Raises:
        FileNotFoundError: if there is no file.
        InputError: if it is not safetensors, or holds anything else.
    """
    if not path.is_file():
        raise MissingError(f"{path} must hold the model's weights, got no file. {REMEDY}")
    try:
        state = load_file(path)
    except SafetensorError as error:
        problem = first_line(error)
        raise InputError(f"{path} must be safetensors, got: {problem}. {REMEDY}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if shapes != dict(expected):
        raise InputError(f"{path} must hold {_difference(dict(expected), shapes)}. {REMEDY}")
    return state


def rebuild(path: Path, build: Callable[[], ModuleT]) -> ModuleT:
    """The module of the sizes or weights in a file; InputError if no module has them."""
    try:
        return build()
    except UserError:
        raise
    except (RuntimeError, ArithmeticError, LookupError, ValueError, AssertionError) as error:
        # Torch has no error of its own for sizes that do not go together or do not fit the memory.
        raise InputError(
            f"{path} must make a model, got one that cannot be: {first_line(error)}. {REMEDY}"
        ) from error


def _difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """The first tensor that differs from what the config says."""
    names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    shown = {"expected": expected.get(names[0], "nothing"), "found": found.get(names[0], "nothing")}
    return (
        f"{shown['expected']} for {names[0]} as its config says, got {shown['found']} "
        f"({len(names)} such)"
    )
