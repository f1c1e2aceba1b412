"""Examples: a response to be predicted and its context, in memory and as JSON lines.

C context tokens, n response tokens, E entities, W words, G gold items.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protos.fingerprint import digest_arrays
from trainer.common.atomic import write_text
from trainer.common.errors import InputError, MissingError

ARRAY_FIELDS = ("context_ids", "response_ids", "context_entities", "context_words", "gold_items")


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A recommender turn to be predicted, and its context. All arrays are int32."""

    example_id: str
    """<dialogue id>:<index of the merged turn>."""
    context_ids: np.ndarray
    """[C] tokens of the earlier turns, each with its end of text; never empty."""
    response_ids: np.ndarray
    """[n + 1] tokens of this turn, then end of text."""
    context_entities: np.ndarray
    """[E] entities named before, distinct, in order; may be empty."""
    context_words: np.ndarray
    """[W] words of the word graph said before, in order, repeats kept; may be empty."""
    gold_items: np.ndarray
    """[G] items of the whole turn, also past the cut, in order, repeats kept."""
    is_recommendation: bool = False
    """Whether response_ids hold an item's token: the turn's action is [REC]. Not known, and False,
    where there is no response yet."""
    continues_turn: bool = False
    """Whether the recommender spoke last: a message inside its turn, the one before it in the
    context as a turn of its own. Never so of a prepared example; not stored."""


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write JSON lines, one object per example, replacing the file as a whole."""
    write_text(path, "".join(f"{json.dumps(_to_record(example))}\n" for example in examples))


def read_examples(path: Path) -> list[Example]:
    """Examples of a prepared file; errors name the file and the line."""
    if not path.is_file():
        raise MissingError(f"{path} must be a prepared split, got no file. Prepare the data.")
    examples = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                examples.append(_from_record(json.loads(line)))
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise InputError(
                    f"{path}:{number}: the line must be an example, got {error!r:.100}. "
                    "Prepare the data again."
                ) from error
    return examples


def last_ids(ids: np.ndarray, limit: int) -> np.ndarray:
    """The last ids, at most `limit`: what a model uses of a context's entities and words."""
    return ids[max(0, len(ids) - limit) :]


def digest_examples(examples: Sequence[Example]) -> str:
    """Hex SHA-256 of all arrays and actions of the examples, in their order."""
    arrays: dict[str, np.ndarray] = {}
    for name in ARRAY_FIELDS:
        columns = [getattr(example, name) for example in examples]
        arrays[name] = np.concatenate(columns)
        arrays[f"{name}_lengths"] = np.array([len(column) for column in columns], np.int32)
    arrays["is_recommendation"] = np.array([it.is_recommendation for it in examples], np.int32)
    return digest_arrays(arrays)


def _to_record(example: Example) -> dict[str, Any]:
    arrays = {name: getattr(example, name).tolist() for name in ARRAY_FIELDS}
    return {
        "example_id": example.example_id,
        **arrays,
        "is_recommendation": example.is_recommendation,
    }


def _from_record(record: dict[str, Any]) -> Example:
    arrays: dict[str, Any] = {name: np.array(record[name], np.int32) for name in ARRAY_FIELDS}
    if arrays["context_ids"].size == 0 or arrays["response_ids"].size == 0:
        raise InputError("a context and a response are needed")
    is_recommendation = record["is_recommendation"]
    if not isinstance(is_recommendation, bool):
        raise InputError(f"is_recommendation must be true or false, got {is_recommendation!r}")
    return Example(example_id=record["example_id"], **arrays, is_recommendation=is_recommendation)
