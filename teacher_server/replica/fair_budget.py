"""A bound on the bytes that all streams of a replica hold, shared out by runs and by urgency."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field


class Urgency(enum.IntEnum):
    """Who gets room first."""

    FIRST = 0
    """A stream that holds nothing."""
    MORE = 1
    """A stream that holds some already."""
    LOW = 2
    """A stream of low priority."""


# Parts of the limit. What streams hold more of and what low ones hold leave the last quarter to
# streams that hold nothing, and neither takes of the other's.
MAX_MORE = 0.5
"""Up to which all normal streams together get more than their first piece."""
MAX_LOW = 0.25
"""Of all low streams together."""
MAX_OF_RUN = 0.75
"""Of one run, so that no run takes all by the first pieces of its streams."""


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """Bytes of one stream, to be taken and given back."""

    run: Hashable
    stream: Hashable
    num_bytes: int
    is_low: bool = False


@dataclass(eq=False, slots=True)
class _Taker:
    """A stream that waits for room."""

    piece: Piece
    urgency: Urgency
    let_in: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class FairBudget:
    """A bound on bytes, on one event loop; a stream waits for one piece at a time.

    The most urgent wait first; among them runs take turns, and in a run streams by arrival. A large
    piece keeps its turn until there is room: small ones do not pass it, or it might never get in.
    Only a run that holds all that one may is passed over. A piece of more than the limit is let in
    when nothing else is held. So nobody starves but those of low priority, as long as what is held
    is given back.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._held_low = 0
        self._held_by: Counter[Hashable] = Counter()
        """Of each stream that holds any."""
        self._held_of: Counter[Hashable] = Counter()
        """Of each run that holds any."""
        self._waiting: dict[Hashable, _Taker] = {}
        """By stream."""
        self._queues = {urgency: _TurnsOfRuns() for urgency in Urgency}

    def others_wait(self, stream: Hashable) -> bool:
        """Whether another stream than this one waits for room."""
        return len(self._waiting) > (stream in self._waiting)

    def try_take(self, piece: Piece) -> bool:
        """Hold the piece if there is room and nobody waits; else False."""
        if self._waiting or not self._run_may_hold(piece):
            return False
        if not self._has_room(piece.num_bytes, self._urgency(piece)):
            return False
        self._count(piece, piece.num_bytes)
        return True

    async def take(self, piece: Piece) -> None:
        """Hold the piece as soon as there is room for it."""
        taker = _Taker(piece, self._urgency(piece))
        self._waiting[piece.stream] = taker
        self._queues[taker.urgency].join(taker)
        self._let_in()
        try:
            await taker.let_in
        except asyncio.CancelledError:
            if taker.let_in.cancelled():
                self._leave(taker)
                self._let_in()
            else:
                # Let in and cancelled in the same moment.
                self.give(piece)
            raise

    def give(self, piece: Piece) -> None:
        """Release a piece that was taken."""
        self._count(piece, -piece.num_bytes)
        taker = self._waiting.get(piece.stream)
        if taker is not None and taker.urgency is Urgency.MORE:
            self._renew_urgency(taker)
        if self._waiting:
            self._let_in()

    def _renew_urgency(self, taker: _Taker) -> None:
        """It waits as one that holds some, and may not any more."""
        if taker.piece.stream not in self._held_by:
            self._queues[taker.urgency].leave(taker)
            taker.urgency = Urgency.FIRST
            self._queues[taker.urgency].join(taker)

    def _urgency(self, piece: Piece) -> Urgency:
        if piece.is_low:
            return Urgency.LOW
        return Urgency.MORE if piece.stream in self._held_by else Urgency.FIRST

    def _has_room(self, num_bytes: int, urgency: Urgency) -> bool:
        if not self.held:
            return True
        if self.held + num_bytes > self.limit:
            return False
        if urgency is Urgency.MORE:
            return self.held - self._held_low + num_bytes <= self.limit * MAX_MORE
        return urgency is Urgency.FIRST or self._held_low + num_bytes <= self.limit * MAX_LOW

    def _run_may_hold(self, piece: Piece) -> bool:
        held = self._held_of[piece.run]
        return not held or held + piece.num_bytes <= self.limit * MAX_OF_RUN

    def _count(self, piece: Piece, num_bytes: int) -> None:
        """Add to what is held, or take from it."""
        self.held += num_bytes
        self._held_low += num_bytes * piece.is_low
        for held, key in ((self._held_by, piece.stream), (self._held_of, piece.run)):
            held[key] += num_bytes
            if not held[key]:
                del held[key]

    def _leave(self, taker: _Taker) -> None:
        """It waits no longer; again if it was cancelled, and found so before it woke."""
        if self._waiting.get(taker.piece.stream) is taker:
            del self._waiting[taker.piece.stream]
            self._queues[taker.urgency].leave(taker)

    def _let_in(self) -> None:
        """Let in whoever has room, the most urgent first."""
        for urgency, queue in self._queues.items():
            while (taker := self._first(queue)) is not None:
                if taker.let_in.cancelled():
                    self._leave(taker)
                    continue
                if not self._has_room(taker.piece.num_bytes, urgency):
                    return
                self._leave(taker)
                queue.end_turn(taker.piece.run)
                self._count(taker.piece, taker.piece.num_bytes)
                taker.let_in.set_result(None)

    def _first(self, queue: _TurnsOfRuns) -> _Taker | None:
        return next((it for it in queue.heads() if self._run_may_hold(it.piece)), None)


class _TurnsOfRuns:
    """Takers of one urgency: one of each run, then the next one of each run."""

    def __init__(self) -> None:
        self._takers: dict[Hashable, dict[_Taker, None]] = {}
        """Of each run that has any, in order of arrival."""

    def join(self, taker: _Taker) -> None:
        self._takers.setdefault(taker.piece.run, {})[taker] = None

    def leave(self, taker: _Taker) -> None:
        run = taker.piece.run
        del self._takers[run][taker]
        if not self._takers[run]:
            del self._takers[run]

    def heads(self) -> Iterator[_Taker]:
        """The first one of each run, in the order of their turns."""
        return (next(iter(takers)) for takers in self._takers.values())

    def end_turn(self, run: Hashable) -> None:
        """The run is the last to have the next turn."""
        if run in self._takers:
            self._takers[run] = self._takers.pop(run)
