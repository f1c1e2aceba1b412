"""Counters, gauges and histograms, each declared once: as a dataclass field with its help text.

Derived from the declarations: what Prometheus scrapes (exposition.py), the tables of
docs/operations.md, a replica's Stats, and the keys of the client's counters in metrics.jsonl.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["counter", "gauge", "histogram"]
DECLARATION = "declaration"


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What is known of a field before anything is counted."""

    kind: Kind
    text: str
    """One sentence for people, without a full stop."""
    metric: str = ""
    """Name in Prometheus without prefix and `_total`; default: the field's, `_s` as `_seconds`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Fields of one metric differ in these."""
    log: str = ""
    """Key in metrics.jsonl; empty: it is not logged."""


class Histogram:
    """How often a value fell into each of some ranges, and the sum of all values."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """Values at most as large as each bound and above the one before; last: above all."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value


def counter(
    text: str,
    *,
    start: float = 0,
    metric: str = "",
    labels: Mapping[str, str] | None = None,
    log: str = "",
) -> Any:
    """A field that only grows; `start` is 0 or 0.0 and decides whether it is an integer."""
    declaration = Declaration(
        kind="counter", text=text, metric=metric, labels=labels or {}, log=log
    )
    return field(default=start, metadata={DECLARATION: declaration})


def gauge(text: str, *, start: float = 0, metric: str = "") -> Any:
    """A field that rises and falls."""
    declaration = Declaration(kind="gauge", text=text, metric=metric)
    return field(default=start, metadata={DECLARATION: declaration})


def histogram(text: str, bounds: Sequence[float], *, metric: str = "") -> Any:
    """A field with a Histogram over `bounds`, ascending; larger values have their own bucket."""
    declaration = Declaration(kind="histogram", text=text, metric=metric)
    return field(default_factory=lambda: Histogram(bounds), metadata={DECLARATION: declaration})


def declarations(counters: Any) -> dict[str, Declaration]:
    """Field name -> declaration with its metric's name, of a dataclass or an instance of one."""
    return {
        each.name: dataclasses.replace(
            each.metadata[DECLARATION],
            metric=each.metadata[DECLARATION].metric or _spell_out(each.name),
        )
        for each in dataclasses.fields(counters)
    }


def metrics_table(prefix: str, label: str, *sources: type) -> str:
    """The table of docs/operations.md about the metrics of one kind of process, in Markdown."""
    rows = [
        f"| `{_shown(it)}` | {it.text} |"
        for source in sources
        for it in declarations(source).values()
    ]
    return "\n".join([f"| `{prefix}_...`, label `{label}` | |", "|---|---|", *rows])


def _shown(declaration: Declaration) -> str:
    name = declaration.metric + ("_total" if declaration.kind == "counter" else "")
    labels = ", ".join(f'{key}="{value}"' for key, value in declaration.labels.items())
    return f"{name}{{{labels}}}" if labels else name


def _spell_out(name: str) -> str:
    return f"{name.removesuffix('_s')}_seconds" if name.endswith("_s") else name
