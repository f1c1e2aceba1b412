"""What a teacher client counts, from the first request on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass
class ClientCounters:
    """What went over the wire so far; written by the client's thread, read by any."""

    requests: int = 0
    resends: int = 0
    hedges: int = 0
    """Requests that were sent to a second replica because the first took long."""
    answer_s: float = 0.0
    """From the first sending of a request to its answer, summed over requests."""
    queue_s: float = 0.0
    """Of that, in the queue of the replica that answered."""
    forward_s: float = 0.0
    """Of that, on its device."""
    wire_bytes: int = 0
    """Bytes of all reply messages of both kinds, without gRPC's own framing."""
    positions: int = 0
    """Response positions whose dialogue targets arrived."""
    cache_hits: int = 0
    """Questions about one example to one kind of teacher that the cache answered."""
    cache_misses: int = 0
    cache_read_bytes: int = 0
    cache_written_bytes: int = 0
    cache_broken: int = 0
    """Cached values that were no good: misses too."""
    cache_unwritten: int = 0
    """Answers that were not kept: the cache was full, or slower than the teachers."""

    def minus(self, earlier: ClientCounters) -> ClientCounters:
        """What was counted since `earlier`."""
        before, now = dataclasses.asdict(earlier), dataclasses.asdict(self)
        return ClientCounters(**{name: count - before[name] for name, count in now.items()})
