"""A checked request: its examples, its compression and its cost.

B examples, N ids of all of them together.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from protos.teacher_pb2 import Compression
from trainer.data.model_input import ExampleInput


@dataclass(eq=False, slots=True)
class Ragged:
    """Ids of examples end to end: int32 [N], and the number of ids of each example."""

    ids_N: np.ndarray
    lengths_B: list[int]

    def rows(self, num_examples: int) -> list[np.ndarray]:
        """Each example's ids; none of a column that was not sent."""
        if not self.lengths_B:
            return [self.ids_N] * num_examples
        ends = itertools.accumulate(self.lengths_B, initial=0)
        return [self.ids_N[start:end] for start, end in itertools.pairwise(ends)]


@dataclass(eq=False, slots=True)
class Columns:
    """The examples of a request, as they were sent."""

    targets: list[int]
    tokens: Ragged
    entities: Ragged
    words: Ragged


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

    @functools.cached_property
    def inputs(self) -> tuple[ExampleInput, ...]:
        """The examples one by one; made in the thread that scores them, off the event loop."""
        columns = self.columns
        number = len(columns.targets)
        return tuple(
            ExampleInput(num_targets=n, tokens=tokens, entities=entities, words=words)
            for n, tokens, entities, words in zip(
                columns.targets,
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
        return max(len(columns.targets), ids)

    @property
    def num_rows(self) -> int:
        """Rows of the reply."""
        return sum(self.columns.targets)
