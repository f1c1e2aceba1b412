"""The levels of a replica now, reported beside its counters; docs/operations.md, section Watch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from teacher_server.replica.batching import Batcher
from teacher_server.replica.fair_budget import FairBudget
from teacher_server.scoring.counters import ReplicaCounters
from trainer.telemetry.counters import gauge

PREFIX = "conkd_teacher"
RUN_PREFIX = f"{PREFIX}_run"
"""Of the metrics that have a label for the run."""


@dataclass(frozen=True, kw_only=True)
class ReplicaLevels:
    """What is in a replica now."""

    streams: int = gauge("open streams of students")
    in_flight: int = gauge("requests read and not answered")
    waiting: int = gauge("requests that wait for the device", metric="queue_requests")
    waiting_bytes: int = gauge("bytes of the requests that wait", metric="queue_bytes")
    oldest_wait_s: float = gauge("wait of the oldest of them", metric="queue_age_seconds")
    held_reply_bytes: int = gauge("bytes kept free for replies that are not written yet")

    @classmethod
    def of(
        cls, batcher: Batcher[Any], counters: ReplicaCounters, replies: FairBudget
    ) -> ReplicaLevels:
        """The levels of one replica."""
        return cls(
            streams=counters.streams,
            in_flight=counters.in_flight,
            waiting=batcher.num_waiting,
            waiting_bytes=batcher.num_waiting_bytes,
            oldest_wait_s=batcher.queue_delay_s,
            held_reply_bytes=replies.held,
        )
