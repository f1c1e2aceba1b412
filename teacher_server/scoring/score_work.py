"""A checked request: its sequences, its compression and its cost.

B sequences, N ids of all of them together, R ranges of rows.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.teacher_pb2 import Compression
from trainer.data.model_input import RowRange, SequenceInput


@dataclass(eq=False, slots=True)
class Ragged:
    """Ids of sequences end to end: int32 [N], and the number of ids of each sequence."""

    ids_N: np.ndarray
    lengths_B: list[int]

    def rows(self, num_sequences: int) -> list[np.ndarray]:
        """Each sequence's ids; none of a column that was not sent."""
        if not self.lengths_B:
            return [self.ids_N] * num_sequences
        ends = itertools.accumulate(self.lengths_B, initial=0)
        return [self.ids_N[start:end] for start, end in itertools.pairwise(ends)]


@dataclass(eq=False, slots=True)
class Ranges:
    """The rows wanted: how many ranges of each sequence, and the tokens of each range."""

    counts_B: list[int]
    starts_R: list[int]
    lengths_R: list[int]

    def rows(self) -> list[tuple[RowRange, ...]]:
        """Each sequence's ranges."""
        ranges = map(RowRange, self.starts_R, self.lengths_R)
        return [tuple(itertools.islice(ranges, count)) for count in self.counts_B]


@dataclass(eq=False, slots=True)
class Columns:
    """The sequences of a request, as they were sent."""

    ranges: Ranges
    tokens: Ragged
    entities: Ragged
    words: Ragged


def columns_of(inputs: Sequence[SequenceInput]) -> Columns:
    """The columns of a request about these sequences."""

    def ragged(rows: list[np.ndarray]) -> Ragged:
        return Ragged(np.concatenate(rows), [len(row) for row in rows])

    wanted = [each for sequence in inputs for each in sequence.ranges]
    return Columns(
        Ranges(
            [len(each.ranges) for each in inputs],
            [each.start for each in wanted],
            [each.length for each in wanted],
        ),
        ragged([each.tokens for each in inputs]),
        ragged([each.entities for each in inputs]),
        ragged([each.words for each in inputs]),
    )


@dataclass(eq=False)
class ScoreWork:
    """One checked request."""

    columns: Columns
    compression: Compression
    max_entries: int
    """Row entries of the reply, or draws, at most."""
    num_bytes: int
    """Of the request."""
    max_reply_bytes: int
    """Of the reply block before zstd, with every row as long as its Compression allows."""
    temperature: float = 1.0
    """Of the rows wanted; works of any temperature may share a batch."""
    run_id: str = ""
    """Whose it is; empty: of its stream."""
    is_low: bool = False
    """Whether it waits for all that are not."""

    @functools.cached_property
    def inputs(self) -> tuple[SequenceInput, ...]:
        """The sequences one by one; made in the thread that scores them, off the event loop."""
        columns = self.columns
        number = len(columns.ranges.counts_B)
        return tuple(
            SequenceInput(
                ranges=ranges,
                tokens=tokens,
                entities=entities,
                words=words,
                temperature=self.temperature,
            )
            for ranges, tokens, entities, words in zip(
                columns.ranges.rows(),
                columns.tokens.rows(number),
                columns.entities.rows(number),
                columns.words.rows(number),
                strict=True,
            )
        )

    @property
    def num_tokens(self) -> int:
        """Ids of all columns, which count against the token budget."""
        columns = self.columns
        ids = len(columns.tokens.ids_N) + len(columns.entities.ids_N) + len(columns.words.ids_N)
        return max(len(columns.ranges.counts_B), ids)

    @property
    def num_rows(self) -> int:
        """Rows of the reply."""
        return sum(self.columns.ranges.lengths_R)
