"""One live replica of a teacher as a client sees it, and the requests assigned to it."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

from protos import codec, teacher_pb2
from trainer.teacher_client.losses import Losses

# A replica reads 64 requests of a stream ahead and answers them in any order.
MAX_OVERTAKING = 256
END = teacher_pb2.ScoreRequest()
"""In an outbox: no request comes after it."""


@dataclass(eq=False)
class Request:
    """One request to a teacher, until it is answered."""

    teacher: str
    """Its name."""
    message: teacher_pb2.ScoreRequest
    num_rows: int
    answer: asyncio.Future[codec.TargetRows]
    bad_answers: int = 0
    asked_s: float = field(default_factory=time.monotonic)
    assigned_to: set[Replica] = field(default_factory=set)
    """Replicas currently assigned (two if hedged); a late answer from an earlier one is accepted
    too."""
    losses: Losses = field(default_factory=Losses)
    """Replicas whose stream ended while they had the request."""
    failed_at: set[str] = field(default_factory=set)
    """Replicas that stalled on it, failed or answered garbage: retried only if there is no
    other."""
    failing_since_s: float = math.inf
    """Monotonic time at which a replica first said that it failed."""


@dataclass(eq=False)
class Replica:
    """One live stream to a teacher; the stream's writer empties the outbox."""

    teacher: str
    """Its name."""
    replica_id: str
    address: str
    outbox: asyncio.Queue[teacher_pb2.ScoreRequest] = field(default_factory=asyncio.Queue)
    outstanding: dict[int, Request] = field(default_factory=dict)
    deadlines: dict[int, asyncio.TimerHandle] = field(default_factory=dict)
    turns: dict[int, int] = field(default_factory=dict)
    """Outstanding request id -> how many requests were sent before it."""
    num_sent: int = 0
    num_answers: int = 0
    last_answer_s: float = -math.inf
    """Monotonic time of the last reply."""
    stalled: bool = False
    """Answered nothing for a deadline while it had work, or since it was delisted."""
    avoided_until_s: float = -math.inf
    """Monotonic time; it answered badly, and gets work before that only if all did."""
    draining: bool = False
    """No longer listed by the Directory: finishes what it has, gets nothing new."""
    is_released: bool = False
    """No longer dialed by this rank: finishes what it has, then its stream ends."""

    def put(self, request: Request) -> None:
        """Assign a request and send it."""
        request_id = request.message.request_id
        request.assigned_to.add(self)
        self.outstanding[request_id] = request
        self.turns[request_id] = self.num_sent
        self.num_sent += 1
        self.outbox.put_nowait(request.message)

    def release(self) -> None:
        """Send nothing more; the stream ends once it has answered what it has."""
        if not self.is_released:
            self.is_released = True
            self.outbox.put_nowait(END)

    def on_answer(self) -> None:
        """A reply came: it lives."""
        self.stalled = False
        self.num_answers += 1
        self.last_answer_s = time.monotonic()

    def has_skipped(self, request_id: int) -> bool:
        """Whether it answered so many later requests that this one must be lost."""
        return self.num_answers > self.turns[request_id] + MAX_OVERTAKING

    def take(self, request_id: int) -> Request | None:
        """Unassign the request, cancel its deadline and return it; None if it was not assigned."""
        self.turns.pop(request_id, None)
        deadline = self.deadlines.pop(request_id, None)
        if deadline is not None:
            deadline.cancel()
        return self.outstanding.pop(request_id, None)
