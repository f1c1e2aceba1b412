"""One live replica of a teacher as a client sees it, and the requests assigned to it."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

from protos import codec, teacher_pb2


@dataclass(eq=False)
class Request:
    """One request to one kind of teacher, until it is answered."""

    kind: str
    message: teacher_pb2.ScoreRequest
    num_rows: int
    answer: asyncio.Future[codec.TargetRows]
    bad_answers: int = 0
    asked_s: float = field(default_factory=time.monotonic)
    assigned_to: set[Replica] = field(default_factory=set)
    """Replicas currently assigned (two if hedged); a late answer from an earlier one is accepted
    too."""
    deaths: int = 0
    """Times that a replica's stream ended while it had the request."""
    last_death_s: float = -math.inf
    failed_at: set[str] = field(default_factory=set)
    """Replicas that stalled on it, failed or answered garbage: retried only if there is no
    other."""
    failing_since_s: float = math.inf
    """Monotonic time at which a replica first said that it failed."""


@dataclass(eq=False)
class Replica:
    """One live stream to a teacher; the stream's writer empties the outbox."""

    kind: str
    replica_id: str
    address: str
    outbox: asyncio.Queue[teacher_pb2.ScoreRequest] = field(default_factory=asyncio.Queue)
    outstanding: dict[int, Request] = field(default_factory=dict)
    deadlines: dict[int, asyncio.TimerHandle] = field(default_factory=dict)
    stalled: bool = False
    """Missed a deadline and has not answered since."""
    avoided_until_s: float = -math.inf
    """Monotonic time; it answered badly, and gets work before that only if all did."""
    draining: bool = False
    """No longer listed by the Directory: finishes what it has, gets nothing new."""

    def take(self, request_id: int) -> Request | None:
        """Unassign the request, cancel its deadline and return it; None if it was not assigned."""
        deadline = self.deadlines.pop(request_id, None)
        if deadline is not None:
            deadline.cancel()
        return self.outstanding.pop(request_id, None)
