"""What a checked request asks a teacher for.

B examples, N ids of all of them together.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from teacher_server.scoring.compress import Cut
from trainer.data.model_input import ExampleInput


@dataclass(eq=False, slots=True)
class Ragged:
    """Ids of examples end to end: int32 [N], and how many are each example's."""

    ids_N: np.ndarray
    lengths_B: list[int]

    def rows(self, num_examples: int) -> list[np.ndarray]:
        """Each example's ids; of a column that is not there, none."""
        if not self.lengths_B:
            return [self.ids_N] * num_examples
        ends = itertools.accumulate(self.lengths_B, initial=0)
        return [self.ids_N[start:end] for start, end in itertools.pairwise(ends)]


@dataclass(eq=False, slots=True)
class Columns:
    """The examples of a request, as they came."""

    targets: list[int]
    tokens: Ragged
    entities: Ragged
    words: Ragged


@dataclass(eq=False)
class ScoreWork:
    """One checked request: what to score, how to cut it, and what it costs."""

    columns: Columns
    cut: Cut
    max_entries: int
    """Row entries of the reply at most, or draws."""
    num_bytes: int
    """Of the request."""
    max_reply_bytes: int
    """Of the reply block before compression, with every row as long as the cut allows."""

    @functools.cached_property
    def inputs(self) -> tuple[ExampleInput, ...]:
        """The examples one by one; for whoever scores them, off the event loop."""
        columns = self.columns
        number = len(columns.targets)
        return tuple(
            ExampleInput(num_targets=n, tokens=said, entities=named, words=heard)
            for n, said, named, heard in zip(
                columns.targets,
                columns.tokens.rows(number),
                columns.entities.rows(number),
                columns.words.rows(number),
                strict=True,
            )
        )

    @property
    def num_tokens(self) -> int:
        """What the request counts against the token budget: ids of all columns."""
        columns = self.columns
        ids = len(columns.tokens.ids_N) + len(columns.entities.ids_N) + len(columns.words.ids_N)
        return max(len(columns.targets), ids)

    @property
    def num_rows(self) -> int:
        """Rows of the reply."""
        return sum(self.columns.targets)
