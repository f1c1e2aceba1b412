"""The counters of a teacher client, from its first request on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from trainer.telemetry.counters import counter


@dataclass
class ClientCounters:
    """Written by the client's thread, read by any thread."""

    requests: int = counter("requests to replicas", log="teacher_requests")
    resends: int = counter("requests sent again, to another replica", log="teacher_resends")
    hedges: int = counter(
        "requests sent to a second replica because the first took long", log="teacher_hedges"
    )
    streams_opened: int = counter("streams opened to replicas")
    streams_ended: int = counter("of those, streams that ended; the others are open")
    quarantined: int = counter(
        "replicas put aside because they do not fit the run, once for each rank",
        log="teacher_quarantined",
    )
    answer_s: float = counter(
        "seconds from sending a request to its answer, summed", start=0.0, log="teacher_answer_s"
    )
    queue_s: float = counter(
        "of that, in the queue of the replica that answered", start=0.0, log="teacher_queue_s"
    )
    forward_s: float = counter("of that, on its device", start=0.0, log="teacher_forward_s")
    wire_bytes: int = counter(
        "bytes of the replies of all kinds, without gRPC's framing", log="wire_bytes"
    )
    request_bytes: int = counter(
        "bytes of the requests that were answered, of all kinds, without gRPC's framing",
        log="request_bytes",
    )
    teacher_tokens: int = counter(
        "tokens that the dialogue teacher read for answered requests", log="wire_tokens"
    )
    positions: int = counter(
        "response positions whose dialogue targets arrived", log="wire_positions"
    )
    spared_rows: int = counter(
        "rows that were not asked for, because lambda is 0 throughout their response",
        log="spared_rows",
    )
    cache_hits: int = counter(
        "targets of one example and one kind that the cache had", log="cache_hits"
    )
    cache_misses: int = counter(
        "targets of one example and one kind that the cache did not have", log="cache_misses"
    )
    cache_read_bytes: int = counter("bytes of values read from the cache", log="cache_read_bytes")
    cache_written_bytes: int = counter(
        "bytes of values written to the cache", log="cache_written_bytes"
    )
    cache_broken: int = counter("corrupt values in the cache, misses too", log="cache_broken")
    cache_unwritten: int = counter(
        "answers not cached: the cache was full, or slower than the teachers",
        log="cache_unwritten",
    )

    def minus(self, earlier: ClientCounters) -> ClientCounters:
        """What was counted since `earlier`."""
        before, now = dataclasses.asdict(earlier), dataclasses.asdict(self)
        return ClientCounters(**{name: count - before[name] for name, count in now.items()})
