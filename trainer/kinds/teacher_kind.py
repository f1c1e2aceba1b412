"""What a kind of teacher is to a student: what it reads, what its rows are, and what they weigh.

P response positions of all examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from protos import teacher_pb2
from trainer.config.distill import DistillConfig
from trainer.data.examples import Example
from trainer.data.loader import Positions
from trainer.data.model_input import InputLimits, SequenceInput


class RowCut(NamedTuple):
    """How much of a row is wanted; of a tail that is sampled `top_k` is the number of draws."""

    top_k: int
    """0: no cap."""
    top_p: float
    """1: not cut by mass."""


def whole_mass(distill: DistillConfig) -> RowCut:
    """`distill.top_k` entries, whatever their mass."""
    return RowCut(distill.top_k, 1.0)


def whole_vocabulary(vocab_size: int, items: range) -> range:
    """Every id."""
    return range(vocab_size)


@dataclass(frozen=True, kw_only=True)
class TeacherKind:
    """One entry of the table of kinds; everything student-side reads it."""

    reads: Literal["tokens", "entities", "words"]
    """The column of an example that it cannot do without."""
    to_input: Callable[[Example, InputLimits], SequenceInput]
    """What it is sent of an example, within its limits."""
    rows_per: Literal["position", "example"]
    """A row for every token of the response, or one for all of them; none for an action token."""
    support: Callable[[int, range], range] = whole_vocabulary
    """(vocabulary size, ids of the items) -> the ids that its rows are over."""
    cut: Callable[[DistillConfig], RowCut] = whole_mass
    share: Callable[[Tensor], Tensor] | None = None
    """Its part of the teachers' weight, given lambda_t: float [P] -> float [P]; these parts sum to
    1. None: `distill.shares` names its part, which is the same at every position."""

    def num_rows(self, examples: Sequence[Example]) -> int:
        """Rows that it gives for examples."""
        if self.rows_per == "example":
            return len(examples)
        return sum(len(example.response_ids) for example in examples)

    def row_P(self, positions: Positions) -> Tensor:
        """The row that each position learns from, int64 [P]; some row where nobody teaches."""
        if self.rows_per == "example":
            return positions.example_P
        return positions.response_row_P

    def compression(self, distill: DistillConfig, seed: int) -> teacher_pb2.Compression:
        """The same as `cut`, as it is sent; the draws of sampled rows depend on `seed`."""
        top_k, top_p = self.cut(distill)
        values = distill.value_format
        if distill.tail == "sampled":
            return teacher_pb2.Compression(samples=top_k, seed=seed, values=values)  # type: ignore[arg-type]
        return teacher_pb2.Compression(top_k=top_k, top_p=top_p, values=values)  # type: ignore[arg-type]
