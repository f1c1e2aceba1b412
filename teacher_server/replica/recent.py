"""What a replica did in the last minute: its counters now, less those of a minute ago."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping

EVERY_S = 5.0
OVER_S = 60.0


class Recent:
    """The growth of counters over the last minute, or since the start where that is less."""

    def __init__(
        self, read: Callable[[], Mapping[str, float]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`read` gives the counters now."""
        self._read = read
        self._clock = clock
        self._looks: deque[tuple[float, Mapping[str, float]]] = deque([(clock(), read())])
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look at the counters every few seconds, on the running loop."""
        self._looking = asyncio.create_task(self._look_on())

    def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    def look(self) -> None:
        """Keep the counters of now, and of those before what is a minute old at most."""
        now_s = self._clock()
        self._looks.append((now_s, self._read()))
        # The first that stays is the last that is a minute old.
        while len(self._looks) > 2 and self._looks[1][0] <= now_s - OVER_S:
            self._looks.popleft()

    def grown(self) -> tuple[float, dict[str, float]]:
        """The seconds since the oldest look that is kept, and what each counter grew by."""
        then_s, before = self._looks[0]
        now = self._read()
        return self._clock() - then_s, {it: now[it] - before.get(it, 0.0) for it in now}

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self.look()
