"""What replicas tell of themselves, made readable: rates between two looks, and where to scrape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from protos.teacher_pb2 import ReplicaStats
from teacher_server.replica.rpc import fetch_stats
from trainer.security.credentials import SecurityFiles

PARALLEL = 16


@dataclass(frozen=True, kw_only=True)
class Rates:
    """One replica between two looks at it."""

    requests_per_s: float
    """Answered or refused."""
    positions_per_s: float
    reply_bytes_per_s: float
    queue_s: float
    """Mean wait of the requests that left the queue meanwhile; of none: of the oldest in it."""


def rates(now: ReplicaStats, before: ReplicaStats | None = None) -> Rates:
    """What a replica did between two looks, or since it started."""
    before = before or ReplicaStats()
    seconds = now.uptime_s - before.uptime_s
    assert seconds > 0, "a replica's uptime grows from one look to the next"
    left = now.queued - before.queued
    return Rates(
        requests_per_s=(_ended(now) - _ended(before)) / seconds,
        positions_per_s=(now.positions - before.positions) / seconds,
        reply_bytes_per_s=(now.reply_bytes - before.reply_bytes) / seconds,
        queue_s=(now.queue_s - before.queue_s) / left if left else now.oldest_wait_s,
    )


def fetch_all_stats(
    addresses: Mapping[str, str], timeout_s: float, security: SecurityFiles
) -> dict[str, ReplicaStats]:
    """Replica id -> what it tells of itself, of those that answer in time.

    Args:
        addresses: replica id -> host:port of its gRPC server.
        timeout_s: for all together; they are asked side by side.
        security: what protects the fleet.
    """
    with ThreadPoolExecutor(PARALLEL) as threads:
        told = threads.map(lambda it: fetch_stats(it, timeout_s, security), addresses.values())
        # Another replica may have the port of one that died.
        return {stats.replica_id: stats for stats in told if stats is not None}


def as_fields(stats: ReplicaStats) -> dict[str, Any]:
    """The message's fields by name, numbers as numbers."""
    return {field.name: getattr(stats, field.name) for field in ReplicaStats.DESCRIPTOR.fields}


def scrape_targets(replicas: Iterable[ReplicaStats]) -> list[dict[str, Any]]:
    """The replicas that serve metrics, in the format of Prometheus' file_sd_configs."""
    return [
        {"targets": [stats.metrics_address], "labels": {"replica": stats.replica_id}}
        for stats in sorted(replicas, key=lambda it: it.replica_id)
        if stats.metrics_address
    ]


def _ended(stats: ReplicaStats) -> int:
    return stats.blocks + stats.invalid + stats.failed
