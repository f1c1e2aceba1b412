"""Names that a command line checks before anything slow is imported."""

from __future__ import annotations

BASELINES: tuple[str, ...] = ("copy", "popularity", "random")
"""Systems that need no model."""
