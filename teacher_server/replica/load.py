"""The load of one replica, as the autoscaling policy reads it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

QUEUE_S = "queue_s"
IDLE_S = "idle_s"
# Since the last stream of a student ended, 0 while there is one.
UNUSED_S = "unused_s"


class LoadMeter:
    """Measures queue and idle time of one device; the clock is injected."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._is_running = False
        self._idle_since_s = clock()
        self._longest_s = 0.0

    def round_starts(self, waiting_since_s: Iterable[float]) -> None:
        """Note that the device starts on requests that arrived at these times."""
        self._is_running = True
        self._note(waiting_since_s)

    def round_ends(self) -> None:
        """Note that the device has finished them."""
        self._is_running = False
        self._idle_since_s = self._clock()

    def report(
        self, waiting_since_s: Iterable[float], *, is_wanted: bool = False
    ) -> dict[str, float]:
        """The load since the last report.

        Args:
            waiting_since_s: arrival times of the requests that wait now.
            is_wanted: others wait whose time does not count.

        Returns:
            QUEUE_S: the longest wait for the device, including requests that still wait; IDLE_S:
            time since the last request, 0 while there is one.
        """
        waiting_since_s = list(waiting_since_s)
        self._note(waiting_since_s)
        longest_s, self._longest_s = self._longest_s, 0.0
        is_busy = self._is_running or is_wanted or bool(waiting_since_s)
        return {
            QUEUE_S: longest_s,
            IDLE_S: 0.0 if is_busy else self._clock() - self._idle_since_s,
        }

    def _note(self, waiting_since_s: Iterable[float]) -> None:
        now_s = self._clock()
        waited_s = (now_s - since_s for since_s in waiting_since_s)
        self._longest_s = max(self._longest_s, *waited_s, 0.0)
