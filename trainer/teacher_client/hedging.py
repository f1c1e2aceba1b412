"""When a request that takes long is sent to a second replica as well (Dean and Barroso, The Tail at
Scale, CACM 2013)."""

from __future__ import annotations

import math
from collections import deque

from trainer.telemetry.client_counters import ClientCounters

RECENT = 200
# Minimum sample before the latency quantile is used.
FEWEST = 20


class Hedging:
    """Picks the slowest `percent` of the requests by the latencies of recent ones; 0: none."""

    def __init__(self, percent: float) -> None:
        self._percent = percent
        self._recent: dict[str, deque[float]] = {}

    def note(self, kind: str, answer_s: float) -> None:
        """Record the latency of an answered request."""
        if self._percent:
            self._recent.setdefault(kind, deque(maxlen=RECENT)).append(answer_s)

    def after_s(self, kind: str) -> float | None:
        """Age at which a request is hedged: a quantile of recent latencies; None: not hedged."""
        recent = self._recent.get(kind, ())
        if not self._percent or len(recent) < FEWEST:
            return None
        rank = math.ceil(len(recent) * (1.0 - self._percent / 100.0))
        return sorted(recent)[max(rank, 1) - 1]

    def may_hedge(self, counters: ClientCounters) -> bool:
        """Whether fewer than `percent` were hedged so far: a slow fleet gets no more work."""
        return counters.hedges < counters.requests * self._percent / 100.0
