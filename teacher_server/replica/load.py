"""How busy one replica is: what the autoscaling policy is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

QUEUE_S = "queue_s"
IDLE_S = "idle_s"


class LoadMeter:
    """Follows the rounds of one device; the clock is given."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._is_running = False
        self._idle_since_s = clock()
        self._longest_s = 0.0

    def round_starts(self, waiting_since_s: Iterable[float]) -> None:
        """The device takes requests that came at these times."""
        self._is_running = True
        self._note(waiting_since_s)

    def round_ends(self) -> None:
        """The device is done with them."""
        self._is_running = False
        self._idle_since_s = self._clock()

    def report(self, waiting_since_s: Iterable[float]) -> dict[str, float]:
        """The load since the last report.

        Args:
            waiting_since_s: when each request came that waits now.

        Returns:
            QUEUE_S: the longest that a request waited for the device, those that still wait
            included; IDLE_S: how long nobody has asked for anything, 0 while somebody does.
        """
        waiting_since_s = list(waiting_since_s)
        self._note(waiting_since_s)
        longest_s, self._longest_s = self._longest_s, 0.0
        is_busy = self._is_running or bool(waiting_since_s)
        return {
            QUEUE_S: longest_s,
            IDLE_S: 0.0 if is_busy else self._clock() - self._idle_since_s,
        }

    def _note(self, waiting_since_s: Iterable[float]) -> None:
        now_s = self._clock()
        waited_s = (now_s - since_s for since_s in waiting_since_s)
        self._longest_s = max(self._longest_s, *waited_s, 0.0)
