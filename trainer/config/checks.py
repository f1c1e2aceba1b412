"""What all settings have in common: no unknown keys, numbers that are numbers, rules by key."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ConfigDict

from trainer.common.command import MAX_WHOLE
from trainer.common.errors import InputError

SETTINGS: ConfigDict = {"extra": "forbid", "allow_inf_nan": False}
"""`__pydantic_config__` of every class that `load_config` reads; groups of settings inherit it."""

MAX_SEED = MAX_WHOLE


def require(rules: Iterable[tuple[str, bool, str, object]]) -> None:
    """Check settings: (key, whether it holds, rule, value).

    Raises:
        InputError: that names the first broken rule.
    """
    for key, holds, rule, value in rules:
        if not holds:
            raise InputError(f"{key} must be {rule}, got {value}.")
