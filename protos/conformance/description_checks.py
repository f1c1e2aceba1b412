"""What a teacher says of itself, and whom it refuses for it."""

from __future__ import annotations

import math

import grpc
from grpc_health.v1 import health_pb2

from protos import handshake, version
from protos.conformance.caller import Caller, Metadata
from protos.conformance.outcomes import Check, NotApplicable, need
from protos.conformance.probes import Probes, to_request
from protos.handshake import handshake_metadata
from protos.limits import KIND_NAME
from protos.teacher_pb2 import ScoreReply, ScoreRequest

# A varint in field 1,000, which no message has.
UNKNOWN_FIELD = bytes([0xC0, 0x3E, 0x01])


def description(caller: Caller, probes: Probes) -> str:
    """Every field that a student reads."""
    about = caller.about
    need(bool(KIND_NAME.fullmatch(about.kind)), f"kind must be a name, got {about.kind!r}.")
    for name in ("replica_id", "vocabulary_digest", "weights_digest", "dtype"):
        need(bool(getattr(about, name)), f"{name} must be told, got nothing.")
    versions = about.oldest_wire_version, about.wire_version
    need(
        bool(version.common_version(*versions)),
        f"wire_version must be {version.WIRE_VERSION}, got {version.versions_text(*versions)}.",
    )
    temperature = about.temperature
    is_temperature = math.isfinite(temperature) and temperature > 0
    need(is_temperature, f"temperature must be above 0, got {temperature}.")
    last = about.first_item_id + about.num_items
    need(
        0 < last <= about.vocab_size,
        f"items must lie in the vocabulary of {about.vocab_size} ids, got "
        f"[{about.first_item_id}, {last}).",
    )
    _check_columns(caller)
    need(caller.describe() == about, "a Description must stay the same, got another one.")
    return f"{about.kind}, {about.vocab_size} ids, {about.dtype}"


def _check_columns(caller: Caller) -> None:
    about = caller.about
    longest = (about.max_tokens, about.max_entities, about.max_words)
    need(any(longest), "one of max_tokens, max_entities, max_words must be above 0, got none.")
    for name, most, number in (
        ("entities", about.max_entities, about.num_entities),
        ("words", about.max_words, about.num_words),
    ):
        need(bool(number) or not most, f"num_{name} must be told beside max_{name}, got 0.")
    needs_graph = bool(about.max_entities)
    need(
        bool(about.graph_digest) or not needs_graph,
        "graph_digest must be told beside max_entities, got nothing.",
    )


def health(caller: Caller, probes: Probes) -> str:
    """gRPC's health service, which load balancers and probers ask."""
    try:
        status = caller.health()
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:  # type: ignore[attr-defined]
            raise NotApplicable("it has no health service; students need none") from error
        raise
    serving = health_pb2.HealthCheckResponse.SERVING
    need(status == serving, f"health must be SERVING ({serving}), got {status}.")
    return ""


def _refusing(key: str, value: str | None) -> Check:
    """A stream whose handshake has another value of one key, or lacks it."""

    def run(caller: Caller, probes: Probes) -> str:
        right = dict(handshake_metadata(caller.about))
        sent = {name: text for name, text in right.items() if name != key}
        if value is not None:
            sent[key] = value
        _need_refusal(caller, probes, tuple(sent.items()))
        return ""

    what = "without" if value is None else "with another"
    return Check(f"refuses a stream {what} {key}", run)


def _need_refusal(caller: Caller, probes: Probes, sent: Metadata) -> None:
    stream = caller.open(sent)
    stream.send(probes.small())
    stream.end()
    code = stream.last_code()
    need(
        code is grpc.StatusCode.FAILED_PRECONDITION,
        f"the stream must end with FAILED_PRECONDITION, got {code.name}.",
    )
    # Others are served on.
    caller.rows(probes.small(), 1)


def unknown_metadata(caller: Caller, probes: Probes) -> str:
    """What a later release may add."""
    sent = (*handshake_metadata(caller.about), ("conkd-of-a-later-release", "1"))
    request = probes.small()
    reply = caller.ask(request, handshake=sent)[request.request_id]
    caller.decode(reply, request, 1)
    return ""


def unknown_fields(caller: Caller, probes: Probes) -> str:
    """The same of a message."""
    plain = to_request(probes.batch())
    extended = ScoreRequest.FromString(plain.SerializeToString() + UNKNOWN_FIELD)
    need(
        extended.ByteSize() == plain.ByteSize() + len(UNKNOWN_FIELD),
        "our protobuf must send unknown fields on, got a shorter message.",
    )
    reply: ScoreReply = caller.ask(extended)[extended.request_id]
    need(reply.WhichOneof("outcome") == "block", f"it must be ignored, got {reply.error.message}.")
    return ""


WRONG = "of-no-teacher"
DESCRIPTION_CHECKS = (Check("describes itself, twice the same", description),)
HANDSHAKE_CHECKS = (
    Check("is healthy", health),
    _refusing(handshake.VOCABULARY_DIGEST, None),
    _refusing(handshake.WIRE_VERSION, None),
    _refusing(handshake.VOCABULARY_DIGEST, WRONG),
    _refusing(handshake.WIRE_VERSION, "999"),
    _refusing(handshake.WEIGHTS_DIGEST, WRONG),
    _refusing(handshake.DTYPE, WRONG),
    _refusing(handshake.TEMPERATURE, "999"),
    Check("ignores metadata that it does not know", unknown_metadata),
    Check("ignores fields that it does not know", unknown_fields),
)
