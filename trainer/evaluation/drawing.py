"""Whether figures can be drawn here: matplotlib is an extra that only reports need."""

from __future__ import annotations

import importlib.util

from trainer.common.errors import InputError


def require_matplotlib() -> None:
    """Raise InputError, before any work, where it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            "matplotlib must be installed to draw the plots, got none. pip install 'conkd[eval]'"
        )
