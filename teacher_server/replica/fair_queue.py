"""A queue that gives every caller an equal share, whatever the number of its items."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
Place = tuple[float, int, ItemT]
"""An item's turn, its number in order of arrival, and the item."""


class FairQueue(Generic[ItemT]):
    """Start-time fair queuing (Goyal, Vin and Cheng, SIGCOMM 1996), all callers of one weight.

    An item's turn is the time at which a server that shared itself evenly among all callers would
    start it: after its caller's previous item, and not before the item that is served now. So an
    idle caller neither saves up a claim nor waits behind the backlog of another.
    """

    def __init__(self) -> None:
        self._heap: list[Place[ItemT]] = []
        self._arrivals = itertools.count()
        self._now = 0.0
        self._free_at: dict[Hashable, float] = {}
        """Turn at which each caller's last item would be done."""

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[ItemT]:
        """All waiting items, in no order."""
        return (item for _, _, item in self._heap)

    def push(self, caller: Hashable, item: ItemT, cost: float) -> None:
        """Add a caller's item; `cost` is its server time, in any unit."""
        turn = max(self._now, self._free_at.get(caller, 0.0))
        self._free_at[caller] = turn + cost
        heapq.heappush(self._heap, (turn, next(self._arrivals), item))

    def drain(self) -> Iterator[Place[ItemT]]:
        """Every item with its place, in the order of turns; put_back() those not served."""
        while self._heap:
            yield heapq.heappop(self._heap)

    def put_back(self, place: Place[ItemT]) -> None:
        """Return an item of drain() to its place."""
        heapq.heappush(self._heap, place)

    def served(self, place: Place[ItemT]) -> None:
        """Note that the item of this place is being served."""
        self._now = max(self._now, place[0])

    def forget(self, caller: Hashable) -> None:
        """Drop the caller's bookkeeping; its queued items keep their turn."""
        self._free_at.pop(caller, None)
