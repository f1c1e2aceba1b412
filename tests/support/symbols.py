"""Names of other packages that we depend on beside their public API."""

from __future__ import annotations

import importlib
from functools import reduce


def symbol(name: str) -> object:
    """What `MODULE:PATH` names; an AttributeError or ImportError names what went."""
    module, _, path = name.partition(":")
    return reduce(getattr, path.split("."), importlib.import_module(module))
