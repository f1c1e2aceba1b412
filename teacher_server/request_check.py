"""A ScoreRequest from the network, trusted in nothing -> ScoreWork, or a ValueError that says why.

B examples, N ids of all examples together.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from protos import codec, teacher_pb2
from teacher_server.batching import ScoreWork
from teacher_server.compress import Cut
from teacher_server.facts import TeacherFacts
from teacher_server.rpc import MAX_MESSAGE_BYTES
from trainer.data.model_input import ExampleInput

BLOCK_MARGIN_BYTES = 1 << 20
MAX_SAMPLES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """What one request may ask for."""

    max_examples: int = 1024
    max_input_ids: int = 1 << 18
    max_rows: int = 1 << 15
    max_reply_bytes: int = MAX_MESSAGE_BYTES - BLOCK_MARGIN_BYTES
    """Of the block before compression, with every row as long as the cut allows."""


def check_request(
    request: teacher_pb2.ScoreRequest, facts: TeacherFacts, limits: RequestLimits
) -> ScoreWork:
    """The work that a request asks for.

    Raises:
        ValueError: naming the field, its rule and its value.
    """
    targets = _int32("target_lengths", request.target_lengths, limits.max_examples).tolist()
    if not targets:
        raise ValueError("target_lengths must have at least one entry, got none.")
    takes = facts.limits
    tokens = Column("token", takes.max_tokens, facts.num_tokens, shortest=1)
    entities = Column("entity", takes.max_entities, facts.num_entities)
    words = Column("word", takes.max_words, facts.num_words)
    columns = (
        _read(tokens, request.token_ids, request.token_lengths, len(targets), limits),
        _read(entities, request.entity_ids, request.entity_lengths, len(targets), limits),
        _read(words, request.word_ids, request.word_lengths, len(targets), limits),
    )
    _check_targets(targets, [len(ids) for ids in columns[0]], facts)
    cut = _cut(request.compression)
    num_rows = sum(targets)
    max_entries = num_rows * cut.max_entries(facts.support_size)
    reply_bytes = _reply_bytes(num_rows, max_entries, limits)
    inputs = tuple(
        ExampleInput(num_targets=n, tokens=said, entities=named, words=heard)
        for n, said, named, heard in zip(targets, *columns, strict=True)
    )
    return ScoreWork(inputs, cut, max_entries, request.ByteSize(), reply_bytes)


@dataclass(frozen=True)
class Column:
    """What a teacher takes of one column of a request; longest 0: nothing."""

    name: str
    longest: int
    num_ids: int
    shortest: int = 0


def _read(
    column: Column, ids: bytes, lengths: bytes, num_examples: int, limits: RequestLimits
) -> list[np.ndarray]:
    """Each example's ids of a column; all empty if the teacher does not take it."""
    name = column.name
    ids_N = _int32(f"{name}_ids", ids, limits.max_input_ids)
    # A list: over a few examples Python is faster than numpy, and this runs for every request.
    lengths_B = _int32(f"{name}_lengths", lengths, limits.max_examples).tolist()
    expected = num_examples if column.longest else 0
    if len(lengths_B) != expected:
        raise ValueError(
            f"{name}_lengths must have {expected} entries, one per example for a teacher that "
            f"takes them and else none, got {len(lengths_B)}."
        )
    if column.longest and not (
        column.shortest <= min(lengths_B) and max(lengths_B) <= column.longest
    ):
        raise ValueError(
            f"{name}_lengths must be in [{column.shortest}, {column.longest}], got "
            f"{min(lengths_B)}..{max(lengths_B)}."
        )
    if sum(lengths_B) != len(ids_N):
        raise ValueError(
            f"{name}_lengths must sum to the {len(ids_N)} {name}_ids, got {sum(lengths_B)}."
        )
    if not column.longest:
        return [ids_N] * num_examples
    # As unsigned numbers negative ids are the largest.
    if len(ids_N) and int(ids_N.view("<u4").max()) >= column.num_ids:
        raise ValueError(
            f"{name}_ids must be in [0, {column.num_ids}), got {ids_N.min()}..{ids_N.max()}."
        )
    ends = itertools.accumulate(lengths_B, initial=0)
    return [ids_N[start:end] for start, end in itertools.pairwise(ends)]


def _int32(name: str, content: bytes, max_length: int) -> np.ndarray:
    if len(content) % 4:
        raise ValueError(f"{name} must be int32 (a multiple of 4 bytes), got {len(content)} bytes.")
    if len(content) // 4 > max_length:
        raise ValueError(
            f"{name} must have at most {max_length} entries, got {len(content) // 4}. "
            "Split the request."
        )
    return np.frombuffer(content, dtype="<i4")


def _check_targets(targets: list[int], num_tokens: list[int], facts: TeacherFacts) -> None:
    takes_tokens = bool(facts.limits.max_tokens)
    for example, (wanted, length) in enumerate(zip(targets, num_tokens, strict=True)):
        if not 1 <= wanted <= (length if takes_tokens else 1):
            rule = "in [1, number of tokens]" if takes_tokens else "1"
            raise ValueError(
                f"target_lengths of a {facts.kind} teacher must be {rule}, got {wanted} for "
                f"example {example} of {length} tokens."
            )


def _cut(compression: teacher_pb2.Compression) -> Cut:
    if compression.values not in codec.VALUE_DTYPES:
        raise ValueError(
            f"compression.values must be FLOAT32, FLOAT16 or UINT8, got {compression.values}."
        )
    if compression.samples > MAX_SAMPLES:
        raise ValueError(
            f"compression.samples must be at most {MAX_SAMPLES}, got {compression.samples}."
        )
    return Cut(
        top_k=compression.top_k,
        top_p=compression.top_p,
        samples=compression.samples,
        seed=compression.seed,
    )


def _reply_bytes(num_rows: int, max_entries: int, limits: RequestLimits) -> int:
    """Of the reply block, uncompressed and at worst."""
    if num_rows > limits.max_rows:
        raise ValueError(
            f"target_lengths must sum to at most {limits.max_rows} rows, got {num_rows}. "
            "Split the request."
        )
    # Table and gap of 5 B each and 4 B of value per entry, 12 B per row.
    reply_bytes = 14 * max_entries + 12 * num_rows
    if reply_bytes > limits.max_reply_bytes:
        raise ValueError(
            f"the reply must fit in {limits.max_reply_bytes} bytes, {num_rows} rows may need "
            f"{reply_bytes}. Split the request or lower top_k."
        )
    return reply_bytes
