"""Modules of a user's own that add entries to our tables (the setting `plugins`)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

EntryT = TypeVar("EntryT")


def with_plugins(
    entries: Mapping[str, EntryT], plugins: Sequence[str], table: str
) -> dict[str, EntryT]:
    """`entries`, followed by those of the dictionary named `table` of every plugin module.

    A module without such a dictionary adds nothing: a plugin may extend other tables.

    Raises:
        ValueError: if a module cannot be imported, or adds a name that is taken.
    """
    merged = dict(entries)
    for name in plugins:
        for key, entry in vars(_module(name)).get(table, {}).items():
            if key in merged:
                raise ValueError(
                    f"an entry of {table} in plugin {name} must have a name of its own, got {key}, "
                    "which is taken. Rename it."
                )
            merged[key] = entry
    return merged


def _module(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"a plugin must be a module that Python can import, got {name}: {error}. Install it, "
            "or add its folder to PYTHONPATH."
        ) from error
