"""What each run was served by a replica, for a bounded number of runs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from trainer.telemetry.counters import counter, declarations

# Each is a label of five metrics.
MAX_RUNS = 64
# No run id has parentheses.
UNNAMED = "(unnamed)"
"""Requests without a run id."""
OTHER = "(other)"
"""Runs that were served before the last MAX_RUNS."""


@dataclass(kw_only=True, eq=False)
class RunCounters:
    """What one run was served."""

    requests: int = counter("valid requests of the run")
    positions: int = counter("rows of its reply blocks")
    request_bytes: int = counter("bytes of its valid requests, without gRPC's framing")
    reply_bytes: int = counter("bytes of its reply blocks")
    device_s: float = counter(
        "device time of its requests: their share, by ids, of the rounds that they rode in",
        start=0.0,
    )

    def add(self, other: RunCounters) -> None:
        """Add another run's numbers."""
        for name in declarations(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Runs:
    """Counters by run; the one that was served least recently makes room for a new one.

    One thread counts, any may read `now`.
    """

    def __init__(self, most: int = MAX_RUNS) -> None:
        self._most = most
        self._runs: dict[str, RunCounters] = {}
        self._uses = itertools.count()
        self._last_use: dict[str, int] = {}
        self._unnamed = RunCounters()
        self._other = RunCounters()

    def of(self, run_id: str) -> RunCounters:
        """The counters of a run, to be added to at once; of all without a name if it is empty."""
        if not run_id:
            return self._unnamed
        self._last_use[run_id] = next(self._uses)
        found = self._runs.get(run_id)
        if found is None:
            found = self._runs[run_id] = RunCounters()
            if len(self._runs) > self._most:
                oldest = min(self._last_use, key=self._last_use.__getitem__)
                del self._last_use[oldest]
                self._other.add(self._runs.pop(oldest))
        return found

    def now(self) -> dict[str, RunCounters]:
        """Run id -> its counters; UNNAMED and OTHER only if they have any."""
        # Copied in one step: another thread may be counting.
        found = dict(sorted(self._runs.copy().items()))
        rest = {UNNAMED: self._unnamed, OTHER: self._other}
        return found | {name: it for name, it in rest.items() if it.requests}
