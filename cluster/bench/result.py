"""Result of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path("bench/results")

Row = dict[str, str | int | float]
"""One line of a table: column -> value, the same columns in every row; units in the names."""


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """Figures by name (ratios within one run) and the table behind them."""

    figures: dict[str, float]
    rows: list[Row]
    corpus: str
    """Name of the dialogues used."""
    details: dict[str, list[Row]] = field(default_factory=dict)
    """Lists by name for the JSON object alone; their rows may have any columns."""
    failures: tuple[str, ...] = ()
    """What came to no result, and why, one line each: the benchmark's exit status is then 1."""
