"""Replicas that do not fit a run: put aside one by one, so that the others carry the run on.

A replica's id names one process for its life, which changes neither its teacher nor its release: it
is put aside for good, and whoever comes after it has another id.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from protos import teacher_pb2
from trainer.telemetry.client_counters import ClientCounters

logger = logging.getLogger(__name__)

# In an error, which must stay readable where a whole fleet was exchanged.
MOST_REASONS = 3


class Quarantine:
    """Who was put aside, and why; each is warned of and counted once."""

    def __init__(self, counters: ClientCounters) -> None:
        self._counters = counters
        self._reasons: dict[str, dict[str, str]] = {}

    def put(self, endpoint: teacher_pb2.Endpoint, reason: str) -> None:
        """Put a replica aside for the life of its process.

        Args:
            endpoint: the replica.
            reason: where it is, what differs, and the remedy.
        """
        reasons = self._reasons.setdefault(endpoint.kind, {})
        if endpoint.replica_id in reasons:
            return
        reasons[endpoint.replica_id] = reason
        self._counters.quarantined += 1
        logger.warning(
            "%s replica %s is put aside, and gets no request: %s",
            *(endpoint.kind, endpoint.replica_id, reason),
        )

    def holds(self, endpoint: teacher_pb2.Endpoint) -> bool:
        """Whether this process was put aside."""
        return endpoint.replica_id in self._reasons.get(endpoint.kind, {})

    def holds_all(self, endpoints: Iterable[teacher_pb2.Endpoint]) -> bool:
        """Whether all of them were put aside, and there is one at least."""
        held = [self.holds(each) for each in endpoints]
        return bool(held) and all(held)

    def reasons(self, kind: str) -> str:
        """Why replicas of a kind were put aside, the latest first; empty if none was."""
        known = [*self._reasons.get(kind, {}).values()][::-1]
        more = len(known) - MOST_REASONS
        told = known[:MOST_REASONS] + ([f"So were {more} more."] if more > 0 else [])
        return " ".join(told)
