"""A ScoreRequest from the network, trusted in nothing -> ScoreWork, or a ValueError that says why.

B examples, N input ids of all examples together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protos import codec, teacher_pb2
from teacher_server.batching import ScoreWork
from teacher_server.compress import Cut
from teacher_server.facts import TeacherFacts, TeacherInput
from teacher_server.rpc import MAX_MESSAGE_BYTES

BLOCK_MARGIN_BYTES = 1 << 20


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
    ids_N = _int32("input_ids", request.input_ids, limits.max_input_ids)
    lengths_B = _int32("input_lengths", request.input_lengths, limits.max_examples)
    targets_B = _int32("target_lengths", request.target_lengths, limits.max_examples)
    _check_lengths(ids_N, lengths_B, targets_B, facts)
    if len(ids_N) and not 0 <= ids_N.min() <= ids_N.max() < facts.num_input_ids:
        raise ValueError(
            f"input_ids of a {facts.kind} teacher must be in [0, {facts.num_input_ids}), got "
            f"{ids_N.min()}..{ids_N.max()}."
        )
    cut = _cut(request.compression)
    num_rows = int(targets_B.sum(dtype=np.int64))
    max_entries = num_rows * cut.max_entries(facts.support_size)
    _check_size(num_rows, max_entries, limits)
    words = _words(request, facts, limits, num_examples=len(lengths_B))
    inputs = tuple(
        TeacherInput(ids, int(num_targets), said)
        for ids, num_targets, said in zip(_split(ids_N, lengths_B), targets_B, words, strict=True)
    )
    return ScoreWork(inputs, cut, max_entries, request.ByteSize())


def _words(
    request: teacher_pb2.ScoreRequest,
    facts: TeacherFacts,
    limits: RequestLimits,
    *,
    num_examples: int,
) -> list[np.ndarray]:
    """The words of each example; none for a teacher that takes none."""
    ids_K = _int32("word_ids", request.word_ids, limits.max_input_ids)
    lengths_B = _int32("word_lengths", request.word_lengths, limits.max_examples)
    expected = num_examples if facts.num_words else 0
    if len(lengths_B) != expected:
        raise ValueError(
            f"word_lengths must have {expected} entries, one per example for a teacher that takes "
            f"words, got {len(lengths_B)}."
        )
    if not facts.num_words:
        lengths_B = np.zeros(num_examples, np.int32)
    if lengths_B.min() < 0 or lengths_B.max() > facts.max_words:
        raise ValueError(
            f"word_lengths must be in [0, {facts.max_words}], got "
            f"{lengths_B.min()}..{lengths_B.max()}."
        )
    _check_total("word", lengths_B, ids_K)
    if len(ids_K) and not 0 <= ids_K.min() <= ids_K.max() < facts.num_words:
        raise ValueError(
            f"word_ids must be in [0, {facts.num_words}), got {ids_K.min()}..{ids_K.max()}."
        )
    return _split(ids_K, lengths_B)


def _check_total(name: str, lengths_B: np.ndarray, ids_N: np.ndarray) -> None:
    total = int(lengths_B.sum(dtype=np.int64))
    if total != len(ids_N):
        raise ValueError(f"{name}_lengths must sum to the {len(ids_N)} {name}_ids, got {total}.")


def _split(ids_N: np.ndarray, lengths_B: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum(lengths_B)
    return [ids_N[end - length : end] for end, length in zip(ends, lengths_B, strict=True)]


def _int32(name: str, content: bytes, max_length: int) -> np.ndarray:
    if len(content) % 4:
        raise ValueError(f"{name} must be int32 (a multiple of 4 bytes), got {len(content)} bytes.")
    if len(content) // 4 > max_length:
        raise ValueError(
            f"{name} must have at most {max_length} entries, got {len(content) // 4}. "
            "Split the request."
        )
    return np.frombuffer(content, dtype="<i4")


def _check_lengths(
    ids_N: np.ndarray, lengths_B: np.ndarray, targets_B: np.ndarray, facts: TeacherFacts
) -> None:
    if len(lengths_B) == 0 or len(targets_B) != len(lengths_B):
        raise ValueError(
            "input_lengths and target_lengths must have one entry per example and at least one "
            f"example, got {len(lengths_B)} and {len(targets_B)}."
        )
    shortest = 1 if facts.kind == "dialogue" else 0
    if lengths_B.min() < shortest or lengths_B.max() > facts.max_input_length:
        raise ValueError(
            f"input_lengths of a {facts.kind} teacher must be in [{shortest}, "
            f"{facts.max_input_length}], got {lengths_B.min()}..{lengths_B.max()}."
        )
    _check_total("input", lengths_B, ids_N)
    longest_B = lengths_B if facts.kind == "dialogue" else np.ones_like(lengths_B)
    wrong = np.flatnonzero((targets_B < 1) | (targets_B > longest_B))
    if len(wrong):
        rule = "in [1, input length]" if facts.kind == "dialogue" else "1"
        first = int(wrong[0])
        raise ValueError(
            f"target_lengths of a {facts.kind} teacher must be {rule}, got {targets_B[first]} for "
            f"example {first} of length {lengths_B[first]}."
        )


def _cut(compression: teacher_pb2.Compression) -> Cut:
    if compression.values not in codec.VALUE_DTYPES:
        raise ValueError(
            f"compression.values must be FLOAT32, FLOAT16 or UINT8, got {compression.values}."
        )
    return Cut(top_k=compression.top_k, top_p=compression.top_p)


def _check_size(num_rows: int, max_entries: int, limits: RequestLimits) -> None:
    if num_rows > limits.max_rows:
        raise ValueError(
            f"target_lengths must sum to at most {limits.max_rows} rows, got {num_rows}. "
            "Split the request."
        )
    # At most 4 B of id, 4 B of value, and 20 B per row: counts, bounds, tail and item mass.
    reply_bytes = 8 * max_entries + 20 * num_rows
    if reply_bytes > limits.max_reply_bytes:
        raise ValueError(
            f"the reply must fit in {limits.max_reply_bytes} bytes, {num_rows} rows may need "
            f"{reply_bytes}. Split the request or lower top_k."
        )
