"""Bytes that may be held at a time; whoever wants more waits its turn."""

from __future__ import annotations

import asyncio


class ByteBudget:
    """A bound on bytes, on one event loop.

    One at a time waits for room, in order of arrival: small ones cannot starve a big one. Who wants
    more than the whole budget gets it when nothing else is held.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._num_waiting = 0
        self._door = asyncio.Lock()
        self._freed = asyncio.Event()

    def try_take(self, num_bytes: int) -> bool:
        """Hold so many bytes if there is room for them and nobody waits; whether they are held."""
        # Counted, for the door is open for a moment between one who waited and the next.
        if self._num_waiting or not self._has_room(num_bytes):
            return False
        self.held += num_bytes
        return True

    async def take(self, num_bytes: int) -> None:
        """Hold so many bytes, once there is room for them."""
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
        """Hold so many bytes less."""
        self.held -= num_bytes
        if self._num_waiting:
            self._freed.set()
