"""What each run was served by a fleet, summed over the replicas of a kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from protos.teacher_pb2 import ReplicaStats
from teacher_server.replica.runs import RunCounters
from trainer.common.tables import fitted
from trainer.telemetry.counters import snapshot

Totals = dict[str, dict[str, float]]
"""Run id -> field of RunCounters -> number."""
COLUMNS = ("run", "requests", "rows", "asked", "sent", "device", "share")
# Of a table; the others are in --json.
MOST_SHOWN = 10
SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def run_totals(replicas: Iterable[ReplicaStats]) -> Totals:
    """What each run was served by some replicas; what is counted in integers is an integer."""
    forms = {name: type(value) for name, value in snapshot(RunCounters()).items()}
    totals: Totals = {}
    for stats in replicas:
        for run_id, of_run in stats.runs.items():
            total = totals.setdefault(run_id, {name: form() for name, form in forms.items()})
            for name, form in forms.items():
                total[name] += form(of_run.counters.get(name, 0))
    return totals


def run_tables(
    replicas_of: Mapping[str, Iterable[str]],
    now: Mapping[str, ReplicaStats],
    before: Mapping[str, ReplicaStats],
    *,
    width: int | None,
) -> Iterator[str]:
    """A table for each kind that was asked: totals, and shares of the device between two looks.

    Args:
        replicas_of: kind -> ids of its replicas.
        now: statistics by replica id.
        before: those of the look before; without any, shares are since the start.
        width: columns of the terminal; None: as wide as needed.
    """
    for kind, ids in replicas_of.items():
        ids = list(ids)
        totals = run_totals(now[it] for it in ids if it in now)
        if totals:
            # Of replicas that are still there: what others did is no part of either total.
            earlier = run_totals(before[it] for it in ids if it in before and it in now)
            yield _table(kind, totals, earlier, width)


def _table(kind: str, totals: Totals, earlier: Totals, width: int | None) -> str:
    none: Mapping[str, float] = {}
    # Between two looks a run may have been forgotten, which is no negative share.
    grown = {
        run_id: max(0.0, total["device_s"] - earlier.get(run_id, none).get("device_s", 0.0))
        for run_id, total in totals.items()
    }
    whole = sum(grown.values())
    order = sorted(totals, key=lambda it: (-grown[it], it))
    rows = [
        _row(run_id, totals[run_id], grown[run_id] / whole if whole else 0.0)
        for run_id in order[:MOST_SHOWN]
    ]
    table = fitted(rows, COLUMNS, right=COLUMNS[1:], title=f"{kind}, by run", width=width)
    hidden = len(order) - len(rows)
    return f"{table}\n... and {hidden} more: --json has all" if hidden else table


def _row(run_id: str, total: Mapping[str, Any], share: float) -> tuple[str, ...]:
    return (
        run_id,
        f"{total['requests']:,}",
        f"{total['positions']:,}",
        _size(total["request_bytes"]),
        _size(total["reply_bytes"]),
        f"{total['device_s']:.1f} s",
        f"{share:.0%}",
    )


def _size(num_bytes: float) -> str:
    for unit, name in SIZES:
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes:.0f} B"
