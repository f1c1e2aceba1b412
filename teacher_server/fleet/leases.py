"""Leases of teacher replicas: a replica is listed for as long as it renews.

One notion for all: replicas of Ray Serve renew through a handle, teachers of other makes by
Directory.Register and Renew (registration.py).
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from trainer.common.errors import UserError

RENEW_S = 1.0
LEASE_S = 6.0
# Time for a replica to answer what it holds, after it has released its lease.
DRAIN_S = 5.0
# Leases of teachers of other makes; those of Serve are as many as the cluster has room for.
MAX_OUTSIDE = 1024


class LeaseTaken(UserError):
    """Another holder has a lease of this replica id."""


class LeasesFull(UserError):
    """There is no room for one more lease."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One replica process and where its own gRPC server listens."""

    kind: str
    address: str
    replica_id: str
    pid: int
    """0: it is not known."""
    weights_digest: str = ""
    model: str = ""
    zone: str = ""
    capacity: int = 0
    """Requests that it works on at once; 0: not told."""
    lease_id: str = field(default="", repr=False)
    """Secret of the holder of an outside teacher; empty: a replica of Serve, whose calls come
    through a handle and whose ids nobody else has."""

    @property
    def is_outside(self) -> bool:
        """Whether its teacher joined by Directory.Register."""
        return bool(self.lease_id)


class Leases:
    """Leases by replica id; pure, the clock is given."""

    def __init__(
        self,
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_outside: int = MAX_OUTSIDE,
    ) -> None:
        self.lease_s = lease_s
        self._clock = clock
        self._max_outside = max_outside
        self._held: dict[str, tuple[Lease, float]] = {}

    def renew(self, lease: Lease) -> bool:
        """Register or renew; True if this changed the fleet.

        Raises:
            LeaseTaken: if another holder has this replica id; its lease stays as it is. Only a
                replica of Serve takes its own id from an outside teacher that came first.
            LeasesFull: if it is a new outside lease, and there are as many as there may be.
        """
        known = self._held.get(lease.replica_id)
        if known is None:
            self._check_room(lease)
        elif lease.is_outside and not _is_same(known[0].lease_id, lease.lease_id):
            raise LeaseTaken(
                f"replica_id must be one that no other teacher holds, got {lease.replica_id} of a "
                f"teacher at {known[0].address}. Draw a new one for every process."
            )
        self._held[lease.replica_id] = (lease, self._clock() + self.lease_s)
        return known is None or known[0] != lease

    def find(self, replica_id: str, lease_id: str) -> Lease | None:
        """The outside lease of a replica id, for its holder alone."""
        if replica_id not in self._held:
            return None
        lease, _ = self._held[replica_id]
        return lease if lease.is_outside and _is_same(lease.lease_id, lease_id) else None

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

    def _check_room(self, lease: Lease) -> None:
        num_outside = sum(held.is_outside for held, _ in self._held.values())
        if lease.is_outside and num_outside >= self._max_outside:
            raise LeasesFull(
                f"outside teachers must be at most {self._max_outside}, got one more. End some, or "
                "wait until their leases have run out."
            )


def _is_same(held: str, shown: str) -> bool:
    # In constant time: the duration of a refusal must not reveal how much of a guess is right.
    return hmac.compare_digest(held.encode(), shown.encode())
