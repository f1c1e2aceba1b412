"""The counters of one replica: plain numbers, added to where the work is done, read by any thread.

No metrics library is on the path of a request: the event loop of a replica is its scarcest
resource. One thread writes each number; a reader may see one that is a request old.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.telemetry.counters import Histogram, counter, histogram

# Upper bounds; what is above the last one has a bucket of its own.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)

Outcome = Literal["block", "invalid", "failed", "abandoned"]


def _ended(outcome: Outcome, text: str) -> int:
    return counter(f"requests {text}", metric="requests", labels={"outcome": outcome})


@dataclass(kw_only=True, eq=False)
class ReplicaCounters:
    """What a replica did since it started."""

    requests: int = 0
    """Requests read from all streams. Each ends as one of the four that follow."""
    streams: int = 0
    """Open now."""
    blocks: int = _ended("block", "answered with a reply block, which gRPC took")
    invalid: int = _ended("invalid", "refused as malformed")
    failed: int = _ended("failed", "whose device or encoder failed")
    abandoned: int = _ended("abandoned", "whose caller left before the reply was written")
    positions: int = counter("rows of all reply blocks")
    request_bytes: int = counter("bytes of all valid requests, without gRPC's framing")
    reply_bytes: int = counter("bytes of all reply blocks")
    rounds: int = counter("rounds of device batches that gave rows")
    batch_tokens: int = counter("ids in all device batches")
    batch_slots: int = counter("the same, padded to the longest example of each device batch")
    compress_s: float = counter(
        "device time of compressing rows, a part of `forward_seconds`", start=0.0
    )
    queue_s: Histogram = histogram(
        "wait of a request for its round", SECONDS, metric="queue_delay_seconds", count="queued"
    )
    forward_s: Histogram = histogram("time of a round, forward and compression", SECONDS)
    encode_s: Histogram = histogram("time of encoding a reply block", SECONDS)
    batch_fill: Histogram = histogram(
        "ids per padded slot of a device batch", FRACTIONS, metric="batch_fill_ratio"
    )

    def end(self, outcome: Outcome) -> None:
        """Count a request by its outcome."""
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
