"""Text and JSON that a user gave us: every way in which it can be wrong is one InputError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer.common.errors import InputError, MissingError

REMEDY = "Check the file, or make it again."


def read_text(path: Path, *, remedy: str = REMEDY) -> str:
    """The text of a UTF-8 file, a byte-order mark left out.

    Args:
        path: the file.
        remedy: the last sentence of the error: what the reader does about it.

    Raises:
        MissingError: if there is no file.
        InputError: if its bytes are not UTF-8; the message names the file and the byte.
    """
    if not path.is_file():
        raise MissingError(f"{path} must be a file, got none there. {remedy}")
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} must be UTF-8 text, got byte {content[error.start]:#04x} at {error.start}. "
            f"{remedy}"
        ) from error


def read_json(path: Path, *, remedy: str = REMEDY) -> Any:
    """The value of a JSON file.

    Raises:
        MissingError: if there is no file.
        InputError: if it is not JSON in UTF-8, or nested deeper than Python reads.
    """
    return parse_json(read_text(path, remedy=remedy), str(path), remedy=remedy)


def read_json_object(path: Path, *, remedy: str = REMEDY) -> dict[str, Any]:
    """The object of a JSON file; also InputError if its value is anything else."""
    return as_object(read_json(path, remedy=remedy), str(path), remedy=remedy)


def parse_json(text: str, place: str, *, remedy: str = REMEDY) -> Any:
    """The value of JSON text; `place` is named in the InputError, e.g. file:line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{place} must be JSON, got: {error}. {remedy}") from error
    except RecursionError as error:
        raise InputError(
            f"{place} must be JSON of reasonable depth, got values nested too deep. {remedy}"
        ) from error
    except ValueError as error:
        # A number of more digits than Python converts.
        raise InputError(f"{place} must be JSON, got: {error}. {remedy}") from error


def as_object(value: Any, place: str, *, remedy: str = REMEDY) -> dict[str, Any]:
    """The value if it is a JSON object, else InputError."""
    if not isinstance(value, dict):
        names = {list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
        raise InputError(
            f"{place} must hold a JSON object, got {names.get(type(value), 'a number')}. {remedy}"
        )
    return value
