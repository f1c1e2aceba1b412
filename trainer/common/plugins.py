"""Modules of a user's own that add entries to our tables (the setting `plugins`)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from trainer.common.errors import InputError

EntryT = TypeVar("EntryT")


def with_plugins(
    entries: Mapping[str, EntryT], plugins: Sequence[str], table: str
) -> dict[str, EntryT]:
    """`entries`, followed by those of the dictionary named `table` of every plugin module.

    A module without such a dictionary adds nothing: a plugin may extend other tables.

    Raises:
        InputError: if a module cannot be imported, or adds a name that is taken.
    """
    merged = dict(entries)
    for name in plugins:
        for key, entry in _entries(name, table).items():
            if key in merged:
                raise InputError(
                    f"an entry of {table} in plugin {name} must have a name of its own, got {key}, "
                    "which is taken. Rename it."
                )
            merged[key] = entry
    return merged


def _entries(name: str, table: str) -> Mapping[str, Any]:
    try:
        entries = vars(importlib.import_module(name)).get(table, {})
    except (ImportError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(
            f"a plugin must be a module that Python can import, got {name!r}: {error}. Install it, "
            "or add its folder to PYTHONPATH."
        ) from error
    if not isinstance(entries, Mapping):
        raise InputError(
            f"{table} of plugin {name} must be a dictionary, got {type(entries).__name__}."
        )
    return entries
