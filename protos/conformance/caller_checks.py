"""How a teacher treats its callers: those that ping, and those without the fleet's token."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from protos.conformance.bare_stream import BareStream, SentAway
from protos.conformance.caller import Caller, NoAnswer
from protos.conformance.outcomes import Check, Failed, NotApplicable, need
from protos.conformance.probes import Probes
from protos.teacher_pb2 import ScoreRequest

EVERY_S = 5.0
"""A server must allow a ping in this time."""
# The first is allowed, and every server forgives two that come too early: then the next one, which
# is in time, ends the connection to a server that allows fewer.
EARLY_PINGS = 3
MOST_EARLY = 8
# A server tells how much it has read a little after it has answered, or with its next frame.
SETTLE_S = 0.1
TRIES = 5


def pings(caller: Caller, probes: Probes) -> str:
    """A student's stream, on which nothing is asked for a while."""
    for _ in range(TRIES):
        try:
            stream = caller.open_bare()
        except OSError as error:
            raise NoAnswer(f"a stream must open, got: {error}.") from error
        try:
            _ask(caller, stream, probes.small(1))
            if not _pinged_early(stream):
                continue
            is_idle = stream.ping(MOST_EARLY)
            _ask(caller, stream, probes.small(2))
        except (SentAway, OSError) as error:
            raise Failed(
                f"a ping every {EVERY_S:g} s must be allowed, got: {error}. gRPC servers have an "
                "option for it (docs/wire.md, Transport)."
            ) from error
        finally:
            stream.close()
        if is_idle:
            return f"idle for {EVERY_S:g} s"
    raise NotApplicable("it forgives no early ping, or its streams are never idle: wait and see")


def _pinged_early(stream: BareStream) -> bool:
    """Whether the server has forgiven as many pings as it can, and the next one is in time.

    Otherwise nothing can be said of this stream: the server sent something in between, or counted
    one ping more than we did.
    """
    num_pings = 0
    try:
        stream.listen(SETTLE_S)
        for content in range(MOST_EARLY):
            # What the server sends lets it forget the pings before: this one is the first.
            num_pings = num_pings + 1 if stream.ping(content) else 1
            if num_pings == EARLY_PINGS:
                # A little more, for a server whose clock is a little slower.
                return stream.listen(1.05 * EVERY_S)
    except SentAway:
        pass
    return False


def _ask(caller: Caller, stream: BareStream, request: ScoreRequest) -> None:
    caller.decode(stream.ask(request), request, 1)


def _refusing_token(what: str, change: Callable[[str], str]) -> Check:
    """Each method of a teacher, called with another token than the one that was given."""

    def run(caller: Caller, probes: Probes) -> str:
        if not caller.metadata:
            raise NotApplicable("no token was given (--token-file)")
        other = [(key, change(value)) for key, value in caller.metadata]
        metadata = [(key, value) for key, value in other if value]
        codes = {
            "Describe": caller.describe_code(metadata),
            "Score": caller.score_code(metadata, probes.small()),
        }
        for method, code in codes.items():
            need(
                code is grpc.StatusCode.UNAUTHENTICATED,
                f"{method} must be refused with UNAUTHENTICATED, got {code.name}.",
            )
        caller.rows(probes.small(), 1)
        return ""

    return Check(f"refuses a caller {what}", run)


def another_token(value: str) -> str:
    """As long, and other in its last character alone."""
    return value[:-1] + ("0" if value[-1] != "0" else "1")


CALLER_CHECKS = (
    Check("keeps a stream whose caller pings every 5 s", pings),
    _refusing_token("without the token", lambda value: ""),
    _refusing_token("with another token", another_token),
)
