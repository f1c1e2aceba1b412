"""Cuts a question about many examples into requests that a server takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protos.limits import MAX_EXAMPLES, MAX_INPUT_IDS, MAX_ROWS
from trainer.data.model_input import ExampleInput


@dataclass(frozen=True, kw_only=True)
class _Size:
    """What examples take of a request."""

    examples: int = 0
    rows: int = 0
    tokens: int = 0
    entities: int = 0
    words: int = 0

    @staticmethod
    def of(example: ExampleInput) -> _Size:
        return _Size(
            examples=1,
            rows=example.num_targets,
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


def split_question(
    inputs: Sequence[ExampleInput], *, entries_per_row: int, max_entries: int
) -> list[list[ExampleInput]]:
    """Runs of inputs that fit into one request each, or one input.

    Args:
        entries_per_row: of a reply row, at most.
        max_entries: of all rows of a reply.
    """
    max_rows = min(MAX_ROWS, max(1, max_entries // entries_per_row))
    parts: list[list[ExampleInput]] = [[]]
    size = _Size()
    for example in inputs:
        own = _Size.of(example)
        size = size.plus(own)
        if parts[-1] and not size.fits(max_rows):
            parts.append([])
            size = own
        parts[-1].append(example)
    return parts
