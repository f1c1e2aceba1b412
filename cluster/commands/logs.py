"""`logs`: not there yet."""

from __future__ import annotations

from typing import Any


def add(commands: Any) -> None:
    """The command's options."""
