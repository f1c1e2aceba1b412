"""A queue in which every caller gets its share, whoever asks for more than the others."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
Place = tuple[float, int, ItemT]
"""An item's turn, its number by arrival, and the item."""


class FairQueue(Generic[ItemT]):
    """Start-time fair queuing (Goyal, Vin and Cheng, SIGCOMM 1996), all callers of one weight.

    An item's turn is the time at which a server that did a bit of everybody's work would start it:
    after its caller's item before, and not before what is served now. So a caller who was idle
    neither saves up a claim nor waits behind the backlog of another.
    """

    def __init__(self) -> None:
        self._heap: list[Place[ItemT]] = []
        self._arrivals = itertools.count()
        self._now = 0.0
        self._free_at: dict[Hashable, float] = {}
        """When each caller's last item would be done."""

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[ItemT]:
        """Everything that waits, in no order."""
        return (item for _, _, item in self._heap)

    def push(self, caller: Hashable, item: ItemT, cost: float) -> None:
        """Add a caller's item; cost is what it takes of the server, in any unit."""
        turn = max(self._now, self._free_at.get(caller, 0.0))
        self._free_at[caller] = turn + cost
        heapq.heappush(self._heap, (turn, next(self._arrivals), item))

    def drain(self) -> Iterator[Place[ItemT]]:
        """Every item with its place, whose turn is next first; put_back() those not served."""
        while self._heap:
            yield heapq.heappop(self._heap)

    def put_back(self, place: Place[ItemT]) -> None:
        """Return an item that drain() gave to its place."""
        heapq.heappush(self._heap, place)

    def served(self, place: Place[ItemT]) -> None:
        """The item of this place is being served."""
        self._now = max(self._now, place[0])

    def forget(self, caller: Hashable) -> None:
        """The caller will not come again; what it left is served in its turn."""
        self._free_at.pop(caller, None)
