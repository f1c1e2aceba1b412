"""Splits a micro-batch into requests that a server takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protos.limits import MAX_DRAWS, MAX_EXAMPLES, MAX_INPUT_IDS, MAX_REPLY_ENTRIES, MAX_ROWS
from trainer.data.model_input import SequenceInput


@dataclass(frozen=True, kw_only=True)
class _Size:
    """What examples take of a request."""

    examples: int = 0
    rows: int = 0
    tokens: int = 0
    entities: int = 0
    words: int = 0

    @staticmethod
    def of(example: SequenceInput) -> _Size:
        return _Size(
            examples=1,
            rows=example.num_rows,
            tokens=len(example.tokens),
            entities=len(example.entities),
            words=len(example.words),
        )

    def plus(self, other: _Size) -> _Size:
        return _Size(
            examples=self.examples + other.examples,
            rows=self.rows + other.rows,
            tokens=self.tokens + other.tokens,
            entities=self.entities + other.entities,
            words=self.words + other.words,
        )

    def fits(self, max_rows: int) -> bool:
        return (
            self.examples <= MAX_EXAMPLES
            and self.rows <= max_rows
            and max(self.tokens, self.entities, self.words) <= MAX_INPUT_IDS
        )


def split_into_requests(
    inputs: Sequence[SequenceInput], *, max_row_entries: int, samples: int = 0
) -> list[list[SequenceInput]]:
    """Runs of inputs that fit into one request each, or one input.

    Args:
        inputs: at least one.
        max_row_entries: entries of a reply row at most; whole rows of a large vocabulary are 0.5 MB
            each.
        samples: draws per row, which may be more than its entries; 0: rows are not drawn.
    """
    most = MAX_DRAWS // samples if samples else MAX_REPLY_ENTRIES // max_row_entries
    max_rows = min(MAX_ROWS, max(1, most))
    parts: list[list[SequenceInput]] = [[]]
    size = _Size()
    for example in inputs:
        own = _Size.of(example)
        size = size.plus(own)
        if parts[-1] and not size.fits(max_rows):
            parts.append([])
            size = own
        parts[-1].append(example)
    return parts
