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
    count: str = ""
    """Name of a histogram's number of values in `snapshot`; default: the field's and `_count`."""
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
    declared = Declaration(kind="counter", text=text, metric=metric, labels=labels or {}, log=log)
    return field(default=start, metadata={DECLARATION: declared})


def gauge(text: str, *, metric: str = "") -> Any:
    """A field that rises and falls; it has no default."""
    declared = Declaration(kind="gauge", text=text, metric=metric)
    return field(metadata={DECLARATION: declared})


def histogram(text: str, bounds: Sequence[float], *, metric: str = "", count: str = "") -> Any:
    """A field with a Histogram over `bounds`, ascending; larger values have their own bucket."""
    declared = Declaration(kind="histogram", text=text, metric=metric, count=count)
    return field(default_factory=lambda: Histogram(bounds), metadata={DECLARATION: declared})


def declarations(counters: Any) -> dict[str, Declaration]:
    """Field name -> declaration, of a dataclass or an instance; fields without one are left out."""
    return {
        each.name: _complete(each.name, each.metadata[DECLARATION])
        for each in dataclasses.fields(counters)
        if DECLARATION in each.metadata
    }


def snapshot(counters: Any) -> dict[str, float]:
    """Field name -> number now; a histogram gives the sum of its values and their count."""
    numbers: dict[str, float] = {}
    for name, declared in declarations(counters).items():
        value = getattr(counters, name)
        if isinstance(value, Histogram):
            numbers |= {name: value.total, declared.count: sum(value.counts)}
        else:
            numbers[name] = value
    return numbers


def counters_table(prefix: str, label: str, *sources: type) -> str:
    """A table of docs/operations.md: the metrics of one kind of process, in Markdown."""
    declared = [it for source in sources for it in declarations(source).values()]
    rows = [f"| `{_shown(it)}` | {_note(it)}{it.text} |" for it in declared]
    return "\n".join([f"| `{prefix}_...`, label `{label}` | |", "|---|---|", *rows])


def _complete(name: str, declared: Declaration) -> Declaration:
    metric = f"{name.removesuffix('_s')}_seconds" if name.endswith("_s") else name
    return dataclasses.replace(
        declared, metric=declared.metric or metric, count=declared.count or f"{name}_count"
    )


def _shown(declared: Declaration) -> str:
    name = declared.metric + ("_total" if declared.kind == "counter" else "")
    labels = ", ".join(f'{key}="{value}"' for key, value in declared.labels.items())
    return f"{name}{{{labels}}}" if labels else name


def _note(declared: Declaration) -> str:
    return "histogram of the " if declared.kind == "histogram" else ""
