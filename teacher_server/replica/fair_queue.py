"""A queue that gives every run an equal share, whatever the number of its streams and items."""

from __future__ import annotations

import enum
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
# Members without items whose turn is remembered. More than that come of one item each, and what is
# forgotten is that item alone.
MAX_REMEMBERED = 4096


class Verdict(enum.Enum):
    """What becomes of the item whose turn it is."""

    TAKE = enum.auto()
    """It is served, and counts against its run and stream."""
    DROP = enum.auto()
    """It leaves unserved, at no cost: nobody wants it any more."""
    SKIP = enum.auto()
    """It stays, and so do all items of its run behind it; other runs go on."""
    STOP = enum.auto()
    """It stays, and nothing more is served now."""


class FairQueue(Generic[ItemT]):
    """Items of runs in turn, of a run its streams in turn, of a stream in order of arrival.

    Items of low priority are a queue of their own, served only while no other item waits.
    """

    def __init__(self) -> None:
        self._normal: _Turns[ItemT] = _Turns()
        self._low: _Turns[ItemT] = _Turns()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[ItemT]:
        """All waiting items, in no order."""
        return itertools.chain(self._normal.items(), self._low.items())

    def push(
        self, run: Hashable, stream: Hashable, item: ItemT, cost: float, *, is_low: bool = False
    ) -> None:
        """Add an item; `cost` is its server time, in any unit."""
        turns = self._low if is_low else self._normal
        # A stream that names no run is one: a level less for each of its items.
        path = (stream,) if run == stream else (run, stream)
        turns.push(path, item, cost)
        self._length += 1

    def take(self, judge: Callable[[ItemT], Verdict]) -> list[ItemT]:
        """Take items in their order for as long as `judge` allows it; it sees each one once."""
        taken: list[ItemT] = []
        for turns in (self._normal, self._low):
            before = len(taken)
            is_empty, num_dropped = turns.take(judge, taken)
            self._length -= len(taken) - before + num_dropped
            # A low item must not pass a normal one that had to stay.
            if not is_empty:
                break
        return taken


class _Line(Generic[ItemT]):
    """The items of one stream, each with its cost, in order of arrival."""

    def __init__(self) -> None:
        self._items: deque[tuple[ItemT, float]] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def push(self, path: tuple[Hashable, ...], item: ItemT, cost: float) -> None:
        self._items.append((item, cost))

    def head(self) -> tuple[ItemT, float]:
        return self._items[0]

    def pop(self, *, is_served: bool) -> None:
        self._items.popleft()

    def items(self) -> Iterator[ItemT]:
        return (item for item, _ in self._items)


class _Turns(Generic[ItemT]):
    """Start-time fair queuing (Goyal, Vin and Cheng, SIGCOMM 1996) of members of one weight.

    A member's turn is the time at which a server that shared itself evenly among all members would
    start its next item: after its previous item, and not before the item that is served now. So an
    idle member neither saves up a claim nor waits behind the backlog of another. Members are lines
    or, as in the hierarchical form of that paper, turns again.
    """

    def __init__(self) -> None:
        self._members: dict[Hashable, _Line[ItemT] | _Turns[ItemT]] = {}
        """Those that have items."""
        self._heap: list[tuple[float, int, Hashable]] = []
        """Turn of each of them, and since when it has this turn."""
        self._renewals = itertools.count()
        self._now = 0.0
        self._free_at: dict[Hashable, float] = {}
        """Turn at which each member's last served item is done."""

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, path: tuple[Hashable, ...], item: ItemT, cost: float) -> None:
        key, rest = path[0], path[1:]
        member = self._members.get(key)
        if member is None:
            member = self._members[key] = _Turns() if rest else _Line()
            self._enter(key, max(self._now, self._free_at.get(key, 0.0)))
        member.push(rest, item, cost)

    def head(self) -> tuple[ItemT, float]:
        return self._members[self._heap[0][-1]].head()

    def pop(self, *, is_served: bool) -> None:
        """Remove the head."""
        turn, _, key = heapq.heappop(self._heap)
        member = self._members[key]
        if is_served:
            # One that was skipped may be served late: time does not go back.
            self._now = max(self._now, turn)
            self._free_at[key] = turn + member.head()[1]
        member.pop(is_served=is_served)
        if len(member):
            self._enter(key, self._free_at[key] if is_served else turn)
        else:
            del self._members[key]
            self._forget_idle()

    def take(self, judge: Callable[[ItemT], Verdict], taken: list[ItemT]) -> tuple[bool, int]:
        """Append to `taken`; whether nothing is left, and how many items were dropped."""
        aside: list[tuple[float, int, Hashable]] = []
        num_dropped = 0
        while self._heap:
            item, _ = self.head()
            verdict = judge(item)
            if verdict is Verdict.STOP:
                break
            if verdict is Verdict.SKIP:
                aside.append(heapq.heappop(self._heap))
                continue
            self.pop(is_served=verdict is Verdict.TAKE)
            if verdict is Verdict.TAKE:
                taken.append(item)
            else:
                num_dropped += 1
        for place in aside:
            heapq.heappush(self._heap, place)
        return not self._heap, num_dropped

    def items(self) -> Iterator[ItemT]:
        return itertools.chain.from_iterable(it.items() for it in self._members.values())

    def _enter(self, key: Hashable, turn: float) -> None:
        heapq.heappush(self._heap, (turn, next(self._renewals), key))

    def _forget_idle(self) -> None:
        """An empty queue owes nobody anything; else what is past does not count any more."""
        if not self._members:
            self._free_at.clear()
        elif len(self._free_at) > len(self._members) + MAX_REMEMBERED:
            self._free_at = {key: at for key, at in self._free_at.items() if key in self._members}
