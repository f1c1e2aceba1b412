"""Leases of teacher replicas: a replica is listed for as long as it renews."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

RENEW_S = 1.0
LEASE_S = 6.0
# Time for a replica to answer what it holds, after it has released its lease.
DRAIN_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One replica process and where its own gRPC server listens."""

    kind: str
    address: str
    replica_id: str
    pid: int


class Leases:
    """Leases by replica id; pure, the clock is given."""

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._held: dict[str, tuple[Lease, float]] = {}

    def renew(self, lease: Lease) -> bool:
        """Register or renew; True if this changed the fleet."""
        known = self._held.get(lease.replica_id)
        self._held[lease.replica_id] = (lease, self._clock() + self._lease_s)
        return known is None or known[0] != lease

    def release(self, replica_id: str) -> bool:
        """Remove a lease; True if this changed the fleet."""
        return self._held.pop(replica_id, None) is not None

    def expire(self) -> bool:
        """Remove leases that were not renewed in time; True if this changed the fleet."""
        now = self._clock()
        late = [replica_id for replica_id, (_, until) in self._held.items() if until <= now]
        for replica_id in late:
            del self._held[replica_id]
        return bool(late)

    def fleet(self) -> list[Lease]:
        """Every lease held, ordered by kind and replica id."""
        return sorted(
            (lease for lease, _ in self._held.values()), key=lambda it: (it.kind, it.replica_id)
        )
