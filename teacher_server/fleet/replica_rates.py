"""Statistics of replicas for people and Prometheus: rates between two looks, where to scrape."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, get_type_hints

from protos.teacher_pb2 import ReplicaStats
from teacher_server.fleet.run_shares import run_totals
from teacher_server.replica.metrics import ReplicaLevels
from teacher_server.replica.rpc import fetch_stats
from teacher_server.scoring.counters import ReplicaCounters
from trainer.security.credentials import SecurityFiles
from trainer.telemetry.counters import snapshot

PARALLEL = 16


@dataclass(frozen=True, kw_only=True)
class Rates:
    """One replica between two looks at it."""

    requests_per_s: float
    """Answered or refused."""
    positions_per_s: float
    queue_s: float
    """Mean wait of the requests that left the queue meanwhile; of none: of the oldest in it."""


def rates(now: ReplicaStats, before: ReplicaStats | None = None) -> Rates:
    """What a replica did between two looks, or by one look in the last minute.

    One that does not tell of the last minute (of another make or release): since it started.
    """
    seconds, growth = _growth(now, before)
    assert seconds > 0, "a replica's uptime grows from one look to the next"

    def grown(*names: str) -> float:
        return sum(growth.get(it, 0.0) for it in names)

    left = grown("queued")
    return Rates(
        requests_per_s=grown("blocks", "invalid", "failed") / seconds,
        positions_per_s=grown("positions") / seconds,
        queue_s=grown("queue_s") / left if left else now.gauges.get("oldest_wait_s", 0.0),
    )


def _growth(now: ReplicaStats, before: ReplicaStats | None) -> tuple[float, Mapping[str, float]]:
    """Seconds, and what each counter grew by in them."""
    if before is not None:
        grown = {it: value - before.counters.get(it, 0.0) for it, value in now.counters.items()}
        return now.uptime_s - before.uptime_s, grown
    if now.recent_s:
        return now.recent_s, now.recent
    return now.uptime_s, now.counters


def fetch_all_stats(
    addresses: Mapping[str, str], timeout_s: float, security: SecurityFiles
) -> dict[str, ReplicaStats]:
    """Replica id -> statistics, of the replicas that answer in time.

    Args:
        addresses: replica id -> host:port of its gRPC server.
        timeout_s: for all together; the calls run side by side.
        security: what protects the fleet.
    """
    with ThreadPoolExecutor(PARALLEL) as threads:
        fetched = threads.map(lambda it: fetch_stats(it, timeout_s, security), addresses.values())
        # Another replica may have the port of one that died.
        return {stats.replica_id: stats for stats in fetched if stats is not None}


def as_fields(stats: ReplicaStats) -> dict[str, Any]:
    """Name -> value of everything in the message; what is counted in integers is an integer."""
    forms = {name: type(value) for name, value in snapshot(ReplicaCounters()).items()}
    forms |= get_type_hints(ReplicaLevels)
    numbers = {**stats.counters, **stats.gauges}
    return {
        "replica_id": stats.replica_id,
        "uptime_s": stats.uptime_s,
        **{name: forms.get(name, float)(value) for name, value in sorted(numbers.items())},
        "metrics_address": stats.metrics_address,
        "rates": {"over_s": stats.recent_s or stats.uptime_s, **dataclasses.asdict(rates(stats))},
        "runs": run_totals([stats]),
    }


def scrape_targets(replicas: Iterable[ReplicaStats]) -> list[dict[str, Any]]:
    """The replicas that serve metrics, in the format of Prometheus' file_sd_configs."""
    return [
        {"targets": [stats.metrics_address], "labels": {"replica": stats.replica_id}}
        for stats in sorted(replicas, key=lambda it: it.replica_id)
        if stats.metrics_address
    ]
