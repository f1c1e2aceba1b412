"""Validate an untrusted ScoreRequest into ScoreWork; ValueError names the bad field.

This runs on the event loop for every request: lists where numpy's calls would cost more than the
few numbers, texts only for errors, and no object per example before it is scored.

B sequences, N ids of all sequences together, R ranges of rows.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from protos import teacher_pb2
from protos.compression import check_compression, max_entries
from protos.limits import (
    MAX_DRAWS,
    MAX_EXAMPLES,
    MAX_INPUT_IDS,
    MAX_MESSAGE_BYTES,
    MAX_REQUEST_BYTES,
    MAX_ROWS,
    RUN_ID,
)
from protos.teacher_pb2 import Compression
from protos.temperatures import temperature_range
from protos.value_formats import BY_NUMBER, FORMATS
from teacher_server.scoring.description import num_token_ids, support_size
from teacher_server.scoring.score_work import Columns, Ragged, Ranges, ScoreWork
from trainer.data.model_input import RANGES

BLOCK_MARGIN_BYTES = 1 << 20
MAX_SAMPLES = 1 << 16
INT32 = np.dtype("<i4")
UINT32 = np.dtype("<u4")
PRIORITIES = frozenset(teacher_pb2.Priority.values())
NOTHING = Ragged(np.empty(0, np.int32), [])


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """Limits of one request."""

    max_examples: int = MAX_EXAMPLES
    max_input_ids: int = MAX_INPUT_IDS
    max_request_bytes: int = MAX_REQUEST_BYTES
    max_rows: int = MAX_ROWS
    max_reply_bytes: int = MAX_MESSAGE_BYTES - BLOCK_MARGIN_BYTES
    """Of the block before zstd, with every row as long as its Compression allows."""
    support_size: int | None = None
    """Entries of one whole row; None: those of a kind of ours, or the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class Column:
    """Limits of one column of a request; longest 0: the teacher takes no ids of it."""

    name: str
    longest: int
    num_ids: int
    shortest: int = 0


class RequestCheck:
    """Checks the requests to one teacher."""

    def __init__(self, teacher: teacher_pb2.Description, limits: RequestLimits) -> None:
        self._kind = teacher.kind
        self._support_size = limits.support_size or support_size(teacher)
        self._limits = limits
        self._tokens = Column("token", teacher.max_tokens, num_token_ids(teacher), shortest=1)
        self._entities = Column("entity", teacher.max_entities, teacher.num_entities)
        self._words = Column("word", teacher.max_words, teacher.num_words)
        self._takes_ranges = RANGES in teacher.capabilities
        self._temperatures = temperature_range(teacher)

    def __call__(self, request: teacher_pb2.ScoreRequest) -> ScoreWork:
        """The work of a request.

        Raises:
            ValueError: naming the field, its rule and its value.
        """
        num_bytes = request.ByteSize()
        if num_bytes > self._limits.max_request_bytes:
            raise ValueError(
                f"a request must have at most {self._limits.max_request_bytes} bytes, got "
                f"{num_bytes}. Split it."
            )
        ranges = self._read_ranges(request)
        number = len(ranges.counts_B)
        columns = Columns(
            ranges,
            self._read(self._tokens, request.token_ids, request.token_lengths, number),
            self._read(self._entities, request.entity_ids, request.entity_lengths, number),
            self._read(self._words, request.word_ids, request.word_lengths, number),
        )
        self._check_ranges(ranges, columns.tokens.lengths_B or [1] * number)
        asked = request.compression
        if asked.values not in BY_NUMBER:
            names = ", ".join(FORMATS).upper()
            raise ValueError(f"compression.values must be one of {names}, got {asked.values}.")
        compression = _checked(asked.top_k, asked.top_p, asked.samples, asked.seed)
        temperature = self._read_temperature(request)
        num_rows = sum(ranges.lengths_R)
        num_entries = num_rows * max_entries(compression, self._support_size)
        if num_rows * compression.samples > MAX_DRAWS:
            raise ValueError(
                f"a request must ask for at most {MAX_DRAWS} draws, got {num_rows} rows of "
                f"{compression.samples}. Split the request or lower top_k."
            )
        value_bytes = BY_NUMBER[asked.values].dtype.itemsize
        reply_bytes = self._reply_bytes(num_rows, num_entries, value_bytes)
        # Draws are entries on the device, even if they hit few ids.
        on_device = max(num_entries, num_rows * compression.samples)
        is_low = _read_priority(request) == teacher_pb2.LOW
        return ScoreWork(
            columns,
            compression,
            on_device,
            num_bytes,
            reply_bytes,
            temperature,
            _read_run_id(request),
            is_low,
        )

    def _read_temperature(self, request: teacher_pb2.ScoreRequest) -> float:
        temperature = request.temperature or 1.0
        low, high = self._temperatures
        # Written so that NaN fails too.
        if not low <= temperature <= high:
            raise ValueError(
                f"temperature must be in [{low:g}, {high:g}] for this {self._kind} teacher, got "
                f"{temperature:g}."
            )
        return temperature

    def _read_ranges(self, request: teacher_pb2.ScoreRequest) -> Ranges:
        """The ranges of a request; those of a sequence may lie anywhere yet."""
        most = self._limits.max_rows
        counts_B = _int32(
            "range", "counts", request.range_counts, self._limits.max_examples
        ).tolist()
        starts_R = _int32("range", "starts", request.range_starts, most).tolist()
        lengths_R = _int32("range", "lengths", request.range_lengths, most).tolist()
        if not counts_B or min(counts_B) < 1:
            raise ValueError(
                "range_counts must be at least 1 for each of at least one sequence, got "
                f"{min(counts_B) if counts_B else 'none'}."
            )
        if not sum(counts_B) == len(starts_R) == len(lengths_R):
            raise ValueError(
                "range_starts and range_lengths must have an entry for each of the "
                f"{sum(counts_B)} ranges, got {len(starts_R)} and {len(lengths_R)}."
            )
        return Ranges(counts_B, starts_R, lengths_R)

    def _read(self, column: Column, ids: bytes, lengths: bytes, num_sequences: int) -> Ragged:
        """Each sequence's ids of a column; none if the teacher takes none."""
        if not column.longest and not ids and not lengths:
            return NOTHING
        name = column.name
        ids_N = _int32(name, "ids", ids, self._limits.max_input_ids)
        lengths_B = _int32(name, "lengths", lengths, self._limits.max_examples).tolist()
        expected = num_sequences if column.longest else 0
        if len(lengths_B) != expected:
            raise ValueError(
                f"{name}_lengths must have {expected} entries, one per sequence for a teacher that "
                f"takes them and else none, got {len(lengths_B)}."
            )
        if lengths_B and not (
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
        # As unsigned numbers negative ids are the largest; argmax takes a third of max's time.
        unsigned_N = ids_N.view(UINT32)
        if len(ids_N) and unsigned_N[unsigned_N.argmax()] >= column.num_ids:
            raise ValueError(
                f"{name}_ids must be in [0, {column.num_ids}), got {ids_N.min()}..{ids_N.max()}."
            )
        return Ragged(ids_N, lengths_B)

    def _check_ranges(self, ranges: Ranges, num_tokens: list[int]) -> None:
        """Each sequence's ranges must be disjoint, in order and within its tokens."""
        wanted = zip(ranges.starts_R, ranges.lengths_R, strict=True)
        for sequence, (count, most) in enumerate(zip(ranges.counts_B, num_tokens, strict=True)):
            free = 0
            for start, length in itertools.islice(wanted, count):
                if length < 1 or start < free or start + length > most:
                    raise ValueError(
                        f"ranges of sequence {sequence} must be of at least 1 row each, in order, "
                        f"disjoint and within its {most} tokens{self._of_no_tokens}, got "
                        f"[{start}, {start + length}) after {free}."
                    )
                free = start + length
            if not self._takes_ranges and (count > 1 or free < most):
                raise ValueError(
                    f"ranges of a {self._kind} teacher without the capability {RANGES} must be one "
                    f"a sequence, at its last tokens, got {count} that end at {free} of {most} "
                    f"for sequence {sequence}."
                )

    @property
    def _of_no_tokens(self) -> str:
        return "" if self._tokens.longest else " (1 for a teacher that takes none)"

    def _reply_bytes(self, num_rows: int, num_entries: int, value_bytes: int) -> int:
        """Bytes of the largest possible reply block, before zstd."""
        if num_rows > self._limits.max_rows:
            raise ValueError(
                f"range_lengths must sum to at most {self._limits.max_rows} rows, got {num_rows}. "
                "Split the request."
            )
        # Table and gap of 5 B each per entry, and its value; 12 B per row.
        reply_bytes = (10 + value_bytes) * num_entries + 12 * num_rows
        if reply_bytes > self._limits.max_reply_bytes:
            raise ValueError(
                f"the reply must fit in {self._limits.max_reply_bytes} bytes, got {num_rows} rows "
                f"that may need {reply_bytes}. Split the request or lower top_k."
            )
        return reply_bytes


def _read_run_id(request: teacher_pb2.ScoreRequest) -> str:
    run_id = request.run_id
    if run_id and not RUN_ID.fullmatch(run_id):
        raise ValueError(
            f"run_id must be 1 to 64 of [A-Za-z0-9._-], or empty, got {run_id[:80]!r}."
        )
    return run_id


def _read_priority(request: teacher_pb2.ScoreRequest) -> int:
    if request.priority not in PRIORITIES:
        names = " or ".join(teacher_pb2.Priority.keys())
        raise ValueError(f"priority must be {names}, got {request.priority}.")
    return request.priority


def _int32(name: str, of: str, content: bytes, max_length: int) -> np.ndarray:
    size = len(content)
    if size % 4:
        raise ValueError(f"{name}_{of} must be int32 (a multiple of 4 bytes), got {size} bytes.")
    if size > 4 * max_length:
        raise ValueError(
            f"{name}_{of} must have at most {max_length} entries, got {size // 4}. "
            "Split the request."
        )
    return np.frombuffer(content, INT32)


@functools.lru_cache(maxsize=64)
def _checked(top_k: int, top_p: float, samples: int, seed: int) -> Compression:
    """Without the format of values, which the device does not see.

    Cached: the requests of a run have the same one, which the batcher compares by identity.
    """
    if samples > MAX_SAMPLES:
        raise ValueError(f"compression.samples must be at most {MAX_SAMPLES}, got {samples}.")
    compression = Compression(top_k=top_k, top_p=top_p, samples=samples, seed=seed)
    check_compression(compression)
    return compression
