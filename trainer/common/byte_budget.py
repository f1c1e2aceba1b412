"""A bound on the bytes held at a time; takers wait in order of arrival."""

from __future__ import annotations

import asyncio


class ByteBudget:
    """A bound on bytes, on one event loop.

    Takers wait one after another, in order of arrival, so small ones cannot starve a large one. A
    taker of more than the whole budget is served when nothing else is held.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._num_waiting = 0
        self._door = asyncio.Lock()
        self._freed = asyncio.Event()

    def try_take(self, num_bytes: int) -> bool:
        """Hold `num_bytes` if there is room and no other taker waits; else False."""
        # Counted: the lock is free for a moment between one waiting taker and the next.
        if self._num_waiting or not self._has_room(num_bytes):
            return False
        self.held += num_bytes
        return True

    async def take(self, num_bytes: int) -> None:
        """Hold `num_bytes` as soon as there is room for them."""
        if self.try_take(num_bytes):
            return
        self._num_waiting += 1
        try:
            async with self._door:
                while not self._has_room(num_bytes):
                    self._freed.clear()
                    await self._freed.wait()
                self.held += num_bytes
        finally:
            self._num_waiting -= 1

    def _has_room(self, num_bytes: int) -> bool:
        return not self.held or self.held + num_bytes <= self.limit

    def give(self, num_bytes: int) -> None:
        """Release `num_bytes`."""
        self.held -= num_bytes
        if self._num_waiting:
            self._freed.set()
