"""Requests that a teacher must answer, made of its Description alone; the same ones every time.

B sequences, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from protos.teacher_pb2 import FLOAT32, Compression, Description, ScoreRequest

RANGES = "ranges"
ACTIONS = "actions"
NUM_ACTIONS = 2
WHOLE = Compression(values=FLOAT32)
# Short: a teacher on a CPU answers dozens of them in seconds.
LENGTHS = (3, 1, 6)
ROWS = (2, 1, 3)
MOST_ROWS = sum(ROWS)


class Rows(NamedTuple):
    """A range of wanted rows."""

    start: int
    length: int


@dataclass(frozen=True)
class Probe:
    """One sequence, and the rows that are wanted of it."""

    tokens: list[int]
    entities: list[int]
    words: list[int]
    ranges: tuple[Rows, ...]

    @property
    def num_rows(self) -> int:
        """Rows of all ranges."""
        return sum(each.length for each in self.ranges)

    def wanting(self, *ranges: tuple[int, int]) -> Probe:
        """The same sequence with other ranges."""
        return replace(self, ranges=tuple(Rows(*each) for each in ranges))

    def until(self, end: int) -> Probe:
        """Its first tokens, without ranges."""
        return replace(self, tokens=self.tokens[:end], ranges=())


class Probes:
    """Valid sequences and requests for one teacher."""

    def __init__(self, about: Description) -> None:
        self.about = about
        self._random = np.random.default_rng(0)
        self.takes_tokens = about.max_tokens > 0
        self.takes_ranges = RANGES in about.capabilities
        self.items = range(about.first_item_id, about.first_item_id + about.num_items)
        # Ids that a row may hold; of a kind that we do not know any.
        is_recommendation = about.kind == "recommendation"
        self.support = self.items if is_recommendation else range(about.vocab_size)

    def sequence(self, length: int, num_rows: int = 1) -> Probe:
        """Random ids; the rows wanted are at its last tokens."""
        about = self.about
        length = min(length, about.max_tokens) if self.takes_tokens else 1
        num_rows = min(num_rows, length)
        return Probe(
            tokens=self._ids(length if self.takes_tokens else 0, self.num_token_ids),
            entities=self._ids(min(3, about.max_entities), about.num_entities),
            words=self._ids(min(2, about.max_words), about.num_words),
            ranges=(Rows(length - num_rows, num_rows),),
        )

    @property
    def num_token_ids(self) -> int:
        """Token ids of requests are below this: words and items, and both action tokens of a
        teacher that was fitted with them."""
        return self.items.stop + NUM_ACTIONS * (ACTIONS in self.about.capabilities)

    def batch(self) -> list[Probe]:
        """A few sequences of other lengths."""
        sizes = zip(LENGTHS, ROWS, strict=True)
        return [self.sequence(length, num_rows) for length, num_rows in sizes]

    def small(self, request_id: int = 1) -> ScoreRequest:
        """The shortest request, for one entry of one row."""
        compression = Compression(top_k=1, values=FLOAT32)
        return to_request([self.sequence(2)], compression, request_id)

    def _ids(self, number: int, below: int) -> list[int]:
        return self._random.integers(0, below, number).tolist() if number else []


def to_request(
    sequences: Sequence[Probe], compression: Compression = WHOLE, request_id: int = 1
) -> ScoreRequest:
    """A request, as it is written on the wire."""
    ranges = [each for sequence in sequences for each in sequence.ranges]
    request = ScoreRequest(
        request_id=request_id,
        compression=compression,
        range_counts=int32(len(each.ranges) for each in sequences),
        range_starts=int32(each.start for each in ranges),
        range_lengths=int32(each.length for each in ranges),
    )
    for column in ("tokens", "entities", "words"):
        ids_B = [getattr(each, column) for each in sequences]
        if any(ids_B):
            name = {"tokens": "token", "entities": "entity", "words": "word"}[column]
            setattr(request, f"{name}_ids", int32(it for ids in ids_B for it in ids))
            setattr(request, f"{name}_lengths", int32(len(ids) for ids in ids_B))
    return request


def int32(numbers: object) -> bytes:
    """Little-endian int32, as all columns are."""
    return np.array(list(numbers), "<i4").tobytes()  # type: ignore[call-overload]


def num_rows(sequences: Sequence[Probe]) -> int:
    """R of a request."""
    return sum(each.num_rows for each in sequences)
