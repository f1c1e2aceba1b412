"""A bound on the bytes that all streams of a replica hold, shared out by runs and by urgency."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field


class Urgency(enum.IntEnum):
    """Who gets room first, and how much of the limit may be held once it has got it."""

    FIRST = 0
    """A stream that holds nothing: the whole."""
    MORE = 1
    """A stream that holds some already: three quarters. So streams that never give back what they
    hold, because nobody reads their replies, leave room for the others."""
    LOW = 2
    """A stream of low priority: a half, so that it is never in the way of the others."""


SHARES = {Urgency.FIRST: 1.0, Urgency.MORE: 0.75, Urgency.LOW: 0.5}


@dataclass(eq=False, slots=True)
class _Taker:
    """A stream that waits for room."""

    run: Hashable
    stream: Hashable
    num_bytes: int
    urgency: Urgency
    let_in: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class FairBudget:
    """A bound on bytes, on one event loop; a stream waits for one piece at a time.

    The most urgent wait first; among them runs take turns, and in a run streams by arrival. A large
    piece keeps its turn until there is room, and one of more than the limit is let in when nothing
    else is held: nobody starves but those of low priority.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._held_by: dict[Hashable, int] = {}
        self._waiting: set[_Taker] = set()
        self._waiting_for_more: dict[Hashable, _Taker] = {}
        """Stream -> its taker of this urgency."""
        self._queues = {urgency: _TurnsOfRuns(urgency) for urgency in Urgency}

    def try_take(
        self, run: Hashable, stream: Hashable, num_bytes: int, *, is_low: bool = False
    ) -> bool:
        """Hold `num_bytes` if there is room and nobody waits; else False."""
        if self._waiting or not self._has_room(num_bytes, self._urgency(stream, is_low)):
            return False
        self._hold(stream, num_bytes)
        return True

    async def take(
        self, run: Hashable, stream: Hashable, num_bytes: int, *, is_low: bool = False
    ) -> None:
        """Hold `num_bytes` as soon as there is room for them."""
        taker = _Taker(run, stream, num_bytes, self._urgency(stream, is_low))
        self._waiting.add(taker)
        self._queues[taker.urgency].join(taker)
        if taker.urgency is Urgency.MORE:
            self._waiting_for_more[stream] = taker
        self._let_in()
        try:
            await taker.let_in
        except asyncio.CancelledError:
            if taker.let_in.cancelled():
                self._leave(taker)
                self._let_in()
            else:
                # Let in and cancelled in the same moment.
                self.give(stream, num_bytes)
            raise

    def give(self, stream: Hashable, num_bytes: int) -> None:
        """Release `num_bytes` that the stream holds."""
        self.held -= num_bytes
        left = self._held_by.pop(stream) - num_bytes
        if left:
            self._held_by[stream] = left
        elif (taker := self._waiting_for_more.pop(stream, None)) is not None:
            # It waits as one that holds some, and does not any more.
            taker.urgency = Urgency.FIRST
            self._queues[Urgency.FIRST].join(taker)
        if self._waiting:
            self._let_in()

    def _urgency(self, stream: Hashable, is_low: bool) -> Urgency:
        if is_low:
            return Urgency.LOW
        return Urgency.MORE if stream in self._held_by else Urgency.FIRST

    def _has_room(self, num_bytes: int, urgency: Urgency) -> bool:
        return not self.held or self.held + num_bytes <= self.limit * SHARES[urgency]

    def _hold(self, stream: Hashable, num_bytes: int) -> None:
        self.held += num_bytes
        self._held_by[stream] = self._held_by.get(stream, 0) + num_bytes

    def _leave(self, taker: _Taker) -> None:
        self._waiting.discard(taker)
        if taker.urgency is Urgency.MORE:
            self._waiting_for_more.pop(taker.stream, None)

    def _let_in(self) -> None:
        """Let in whoever has room, the most urgent first."""
        for urgency, queue in self._queues.items():
            while (taker := queue.first()) is not None:
                if not self._has_room(taker.num_bytes, urgency):
                    return
                queue.next_run()
                self._leave(taker)
                self._hold(taker.stream, taker.num_bytes)
                taker.let_in.set_result(None)


class _TurnsOfRuns:
    """Takers of one urgency: one of each run, then the next one of each run."""

    def __init__(self, urgency: Urgency) -> None:
        self._urgency = urgency
        self._takers: dict[Hashable, deque[_Taker]] = {}

    def join(self, taker: _Taker) -> None:
        self._takers.setdefault(taker.run, deque()).append(taker)

    def first(self) -> _Taker | None:
        """Whose turn it is; those that left meanwhile are passed over."""
        while self._takers:
            run = next(iter(self._takers))
            takers = self._takers[run]
            while takers and not self._waits_here(takers[0]):
                takers.popleft()
            if takers:
                return takers[0]
            del self._takers[run]
        return None

    def next_run(self) -> None:
        """The first one is let in; its run is the last to have the next turn."""
        run = next(iter(self._takers))
        takers = self._takers.pop(run)
        takers.popleft()
        if takers:
            self._takers[run] = takers

    def _waits_here(self, taker: _Taker) -> bool:
        return taker.urgency is self._urgency and not taker.let_in.done()
