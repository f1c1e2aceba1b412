"""Malformed requests: each is refused alone, with INVALID_ARGUMENT, and its stream goes on."""

from __future__ import annotations

import math
from collections.abc import Callable

from protos.conformance.caller import Caller
from protos.conformance.outcomes import Check, NotApplicable, need
from protos.conformance.probes import Probe, Probes, int32, to_request
from protos.limits import MAX_DRAWS, MAX_EXAMPLES, MAX_INPUT_IDS, MAX_REQUEST_BYTES, MAX_ROWS
from protos.teacher_pb2 import FLOAT32, Compression, ScoreError, ScoreRequest

Malformed = Callable[[Probes], ScoreRequest]
GOOD, BAD = 1, 2
LONG_ROWS = 64


def refusing(what: str, malformed: Malformed) -> Check:
    """A request that must be refused alone, beside a good one on the same stream."""

    def run(caller: Caller, probes: Probes) -> str:
        bad, good = malformed(probes), probes.small(GOOD)
        bad.request_id = BAD
        replies = caller.ask(bad, good)
        refused = replies[BAD]
        need(
            refused.WhichOneof("outcome") == "error"
            and refused.error.code == ScoreError.INVALID_ARGUMENT,
            f"it must be refused with INVALID_ARGUMENT, got {str(refused)[:120]!r}.",
        )
        need(bool(refused.error.message), "a refusal must say why, got no message.")
        caller.decode(replies[GOOD], good, 1)
        return refused.error.message[:80]

    return Check(f"refuses {what}", run)


def _one(probes: Probes) -> Probe:
    return probes.sequence(4)


def _range(make: Callable[[int], list[tuple[int, int]]]) -> Malformed:
    """One sequence, whose ranges are made of its number of tokens: 1 if it takes none."""

    def malformed(probes: Probes) -> ScoreRequest:
        sequence = _one(probes)
        return to_request([sequence.wanting(*make(max(1, len(sequence.tokens))))])

    return malformed


def _without_ranges(make: Callable[[int], list[tuple[int, int]]]) -> Malformed:
    """The same where it is malformed only for a teacher without the capability."""

    def malformed(probes: Probes) -> ScoreRequest:
        if probes.takes_ranges:
            raise NotApplicable("it lists the capability ranges")
        if len(_one(probes).tokens) < 3:
            raise NotApplicable("its sequences have fewer than 3 tokens")
        return _range(make)(probes)

    return malformed


def _field(name: str, change: Callable[[bytes], bytes]) -> Malformed:
    def malformed(probes: Probes) -> ScoreRequest:
        request = to_request([_one(probes)])
        setattr(request, name, change(getattr(request, name)))
        return request

    return malformed


def _compression(**fields: float) -> Malformed:
    def malformed(probes: Probes) -> ScoreRequest:
        asked = {"values": FLOAT32, **fields}
        return to_request([_one(probes)], Compression(**asked))  # type: ignore[arg-type]

    return malformed


def _column(probes: Probes) -> tuple[str, int]:
    """A column that it takes, and the number of its ids."""
    about = probes.about
    columns = (
        ("token", about.max_tokens, about.vocab_size),
        ("entity", about.max_entities, about.num_entities),
        ("word", about.max_words, about.num_words),
    )
    return next((name, number) for name, longest, number in columns if longest)


def _last_id(value: Callable[[int], int]) -> Malformed:
    """A sequence whose last id is of no vocabulary."""

    def malformed(probes: Probes) -> ScoreRequest:
        name, number = _column(probes)
        return _field(f"{name}_ids", lambda ids: ids[:-4] + int32([value(number)]))(probes)

    return malformed


def other_lengths(probes: Probes) -> ScoreRequest:
    """Lengths that do not sum to the ids."""
    name, _ = _column(probes)
    return _field(f"{name}_ids", lambda ids: ids[:-4])(probes)


def torn_column(probes: Probes) -> ScoreRequest:
    """A column of no whole numbers."""
    name, _ = _column(probes)
    return _field(f"{name}_ids", lambda ids: ids + b"\0")(probes)


def empty_sequence(probes: Probes) -> ScoreRequest:
    """A sequence without tokens, of a teacher that takes them."""
    if not probes.takes_tokens:
        raise NotApplicable("it takes no tokens")
    empty = int32([0])
    return _field("token_lengths", lambda _: empty)(probes)


def strange_column(probes: Probes) -> ScoreRequest:
    """Ids of a column that the teacher does not take."""
    about = probes.about
    columns = {"token": about.max_tokens, "entity": about.max_entities, "word": about.max_words}
    strange = [name for name, longest in columns.items() if not longest]
    if not strange:
        raise NotApplicable("it takes all columns")
    request = to_request([_one(probes)])
    setattr(request, f"{strange[0]}_ids", int32([0]))
    setattr(request, f"{strange[0]}_lengths", int32([1]))
    return request


def too_long(probes: Probes) -> ScoreRequest:
    """A sequence longer than the Description allows."""
    name, _ = _column(probes)
    longest = getattr(probes.about, {"entity": "max_entities"}.get(name, f"max_{name}s"))
    if longest >= MAX_INPUT_IDS:
        raise NotApplicable(f"its sequences may be as long as a request, {longest} ids")
    request = to_request([_one(probes)])
    setattr(request, f"{name}_ids", int32([0] * (longest + 1)))
    setattr(request, f"{name}_lengths", int32([longest + 1]))
    if name == "token":
        request.range_starts = int32([longest])
    return request


def too_many_sequences(probes: Probes) -> ScoreRequest:
    """More sequences than a message may hold."""
    return to_request([probes.sequence(1)] * (MAX_EXAMPLES + 1))


def too_many_rows(probes: Probes) -> ScoreRequest:
    """More rows than a message may hold, of no more sequences than it may."""
    sequence = probes.sequence(LONG_ROWS, LONG_ROWS)
    number = MAX_ROWS // sequence.num_rows + 1
    if number > MAX_EXAMPLES:
        raise NotApplicable(f"{MAX_EXAMPLES} of its sequences have no more than {MAX_ROWS} rows")
    compression = Compression(top_k=1, values=FLOAT32)
    return to_request([sequence] * number, compression)


ERROR_CHECKS = tuple(
    refusing(what, malformed)
    for what, malformed in (
        ("a range past the end of its sequence", _range(lambda length: [(length - 1, 2)])),
        ("a range before its sequence", _range(lambda length: [(-1, 2)])),
        ("a range of no rows", _range(lambda length: [(length - 1, 0)])),
        ("a range of fewer than no rows", _range(lambda length: [(length - 1, -1)])),
        ("overlapping ranges", _range(lambda length: [(0, length), (length - 1, 1)])),
        ("ranges out of order", _range(lambda length: [(length - 1, 1), (0, 1)])),
        (
            "two ranges without the capability",
            _without_ranges(lambda length: [(0, 1), (length - 1, 1)]),
        ),
        (
            "a range before the last tokens without the capability",
            _without_ranges(lambda length: [(0, 1)]),
        ),
        ("a sequence without a range", _field("range_counts", lambda _: int32([0]))),
        ("more ranges than are given", _field("range_counts", lambda _: int32([2]))),
        ("a request without a sequence", lambda probes: to_request([])),
        ("lengths that do not sum to the ids", other_lengths),
        ("a torn column", torn_column),
        ("an empty sequence", empty_sequence),
        ("a negative id", _last_id(lambda number: -1)),
        ("an id beyond the vocabulary", _last_id(lambda number: number)),
        ("a column that it does not take", strange_column),
        ("a sequence that is too long", too_long),
        ("too many sequences", too_many_sequences),
        ("too many rows", too_many_rows),
        (
            "a request of too many bytes",
            _field("traceparent", lambda _: bytes(MAX_REQUEST_BYTES + 1)),
        ),
        ("a request without a format of values", _compression(values=0)),
        ("a format of values that there is not", _compression(values=99)),
        ("a top_p above 1", _compression(top_p=1.5)),
        ("a top_p that is no number", _compression(top_p=math.nan)),
        ("samples beside top_k", _compression(samples=4, top_k=4)),
        ("too many samples", _compression(samples=MAX_DRAWS + 1)),
    )
)
