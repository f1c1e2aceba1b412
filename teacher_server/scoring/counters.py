"""What one replica counts: plain numbers, added to where the work is done, read by whoever asks.

Nothing of a metrics library is on the way of a request: the event loop of a replica is what runs
out first. Every number has one thread that writes it; a reader may see one that is a request old.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

# Upper bounds; what is above the last one has a bucket of its own.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


Outcome = Literal["block", "invalid", "failed", "abandoned"]


class Histogram:
    """How often a value fell into each of some ranges, and the sum of all values."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """Values at most as large as each bound and above the one before; last: above all."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value


def _seconds() -> Histogram:
    return Histogram(SECONDS)


@dataclass(kw_only=True, eq=False)
class ReplicaCounters:
    """What a replica did since it started."""

    requests: int = 0
    """Requests read from all streams. Each ends as one of the four that follow."""
    blocks: int = 0
    """Answered with a reply block: it was handed to gRPC."""
    invalid: int = 0
    """Refused: malformed."""
    failed: int = 0
    """The device or the encoder failed."""
    abandoned: int = 0
    """The caller left before the answer was on its way."""
    positions: int = 0
    """Rows of all reply blocks."""
    request_bytes: int = 0
    """Of all valid requests, without gRPC's own framing."""
    reply_bytes: int = 0
    """Of all reply blocks."""
    streams: int = 0
    """Open now."""
    rounds: int = 0
    """Rounds of device batches that gave rows."""
    batch_tokens: int = 0
    """Ids of the examples of all device batches."""
    batch_slots: int = 0
    """The same with every example as long as the longest of its device batch."""
    compress_s: float = 0.0
    """Device time of cutting rows down and of their way to the host; a part of forward_s."""
    queue_s: Histogram = field(default_factory=_seconds)
    """Per request: until its round began."""
    forward_s: Histogram = field(default_factory=_seconds)
    """Per round: forward passes and compression of all its device batches."""
    encode_s: Histogram = field(default_factory=_seconds)
    """Per reply block, with the way to its thread and back if it went there."""
    batch_fill: Histogram = field(default_factory=lambda: Histogram(FRACTIONS))
    """Per device batch: tokens per slot."""

    def end(self, outcome: Outcome) -> None:
        """Count a request by how it ended."""
        if outcome == "block":
            self.blocks += 1
        elif outcome == "invalid":
            self.invalid += 1
        elif outcome == "failed":
            self.failed += 1
        else:
            self.abandoned += 1

    @property
    def in_flight(self) -> int:
        """Requests that were read and have no answer yet."""
        return self.requests - self.blocks - self.invalid - self.failed - self.abandoned
