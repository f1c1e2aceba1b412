"""Streams: many requests at once, the longest one, and callers that break off."""

from __future__ import annotations

from protos.conformance.caller import Caller
from protos.conformance.outcomes import Check, NotApplicable, need
from protos.conformance.probes import Probes, to_request
from protos.limits import MAX_INPUT_IDS
from protos.teacher_pb2 import FLOAT32, Compression

# More than a replica of ours reads ahead of its answers.
MANY = 80
LARGEST_ID = (1 << 64) - 1


def many_requests(caller: Caller, probes: Probes) -> str:
    """Replies come in any order, each with the id of its request."""
    sequences = {LARGEST_ID - at: probes.sequence(4, 1 + at % 3) for at in range(MANY)}
    compression = Compression(top_k=1, values=FLOAT32)
    requests = {
        request_id: to_request([sequence], compression, request_id)
        for request_id, sequence in sequences.items()
    }
    replies = caller.ask(*requests.values())
    for request_id, request in requests.items():
        caller.decode(replies[request_id], request, sequences[request_id].num_rows)
    return f"{MANY} at once"


def longest_sequence(caller: Caller, probes: Probes) -> str:
    """As many ids as the Description allows."""
    if probes.about.max_tokens > MAX_INPUT_IDS:
        raise NotApplicable("a request cannot hold one")
    sequence = probes.sequence(max(1, probes.about.max_tokens))
    compression = Compression(top_k=1, values=FLOAT32)
    caller.rows(to_request([sequence], compression), 1)
    return f"{len(sequence.tokens)} tokens"


def open_stream(caller: Caller, probes: Probes) -> str:
    """A stream lasts for as long as its caller wants."""
    stream = caller.open()
    for request_id in (1, 2):
        request = probes.small(request_id)
        stream.send(request)
        caller.decode(stream.next(), request, 1)
    stream.end()
    left = len(list(stream.replies()))
    need(left == 0, f"a stream must end once all is answered, got {left} replies more.")
    return ""


def cancelled_stream(caller: Caller, probes: Probes) -> str:
    """A caller that leaves takes nothing from the others."""
    other, leaving = caller.open(), caller.open()
    other.send(probes.small(1))
    other.next()
    for request_id in range(MANY):
        leaving.send(probes.small(request_id))
    leaving.next()
    leaving.cancel()
    other.send(probes.small(2))
    reply = other.next()
    other.end()
    need(reply.request_id == 2, f"the reply must be to request 2, got one to {reply.request_id}.")
    caller.rows(probes.small(), 1)
    return ""


STREAM_CHECKS = (
    Check("keeps a stream open until its caller ends it", open_stream),
    Check("answers many requests of a stream", many_requests),
    Check("answers its longest sequence", longest_sequence),
    Check("serves others when a caller breaks off", cancelled_stream),
)
