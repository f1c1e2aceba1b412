"""When a request that takes long is sent to a second replica as well (Dean and Barroso, The Tail at
Scale, CACM 2013)."""

from __future__ import annotations

import math
from collections import deque

from trainer.telemetry.client_counters import ClientCounters

RECENT = 200
# Before so many answers nobody knows what slow is.
FEWEST = 20


class Hedging:
    """The slowest `percent` of the requests, told by how long recent ones took; 0: none."""

    def __init__(self, percent: float) -> None:
        self._percent = percent
        self._recent: dict[str, deque[float]] = {}

    def note(self, kind: str, answer_s: float) -> None:
        """A request of a kind was answered after so long."""
        if self._percent:
            self._recent.setdefault(kind, deque(maxlen=RECENT)).append(answer_s)

    def after_s(self, kind: str) -> float | None:
        """How long the quicker requests take; None: no request is hedged."""
        recent = self._recent.get(kind, ())
        if not self._percent or len(recent) < FEWEST:
            return None
        rank = math.ceil(len(recent) * (1.0 - self._percent / 100.0))
        return sorted(recent)[max(rank, 1) - 1]

    def may_hedge(self, counters: ClientCounters) -> bool:
        """Whether there are still fewer than `percent` of them: a slow fleet gets no more work."""
        return counters.hedges < counters.requests * self._percent / 100.0
