"""From dialogues to examples: one per recommender turn that has something before it.

C context tokens, n response tokens, E entities, G gold items.

Source of the sample construction: KGSF (Zhou et al., KDD 2020), but unlinked movies are kept and a
long response keeps its head.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from protos.fingerprint import digest_arrays
from trainer.atomic import write_text
from trainer.data.knowledge_graph import KnowledgeGraph
from trainer.data.redial import Dialogue, Mention, Piece, Sender, split_mentions
from trainer.data.vocabulary import Vocabulary

ARRAY_FIELDS = ("context_ids", "response_ids", "context_entities", "gold_items")


@dataclass(frozen=True, kw_only=True)
class ExampleLimits:
    """How much of a dialogue an example keeps."""

    max_context: int = 256
    """Last tokens of the context that are kept."""
    max_response: int = 30
    """Tokens of the response with its end of text; its head is kept."""

    def __post_init__(self) -> None:
        if self.max_context < 1:
            raise ValueError(f"max_context must be at least 1, got {self.max_context}.")
        if self.max_response < 2:
            raise ValueError(
                f"max_response must be at least 2 (a token and its end), got {self.max_response}."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A recommender turn to be predicted, and what was said before it. All arrays are int32."""

    example_id: str
    """<dialogue id>:<index of the merged turn>."""
    context_ids: np.ndarray
    """[C] tokens of the earlier turns, each with its end of text; never empty."""
    response_ids: np.ndarray
    """[n + 1] tokens of this turn, then end of text."""
    context_entities: np.ndarray
    """[E] entities of the movies mentioned before, distinct, in order; may be empty."""
    gold_items: np.ndarray
    """[G] items of the whole turn, also past the cut, in order, repeats kept."""

    @property
    def is_recommendation(self) -> bool:
        """Whether the turn mentions a movie."""
        return bool(len(self.gold_items))


@dataclass(slots=True)
class MergedTurn:
    """Consecutive messages of one sender, joined by single spaces."""

    sender: Sender
    pieces: list[Piece] = field(default_factory=list)

    @property
    def movie_ids(self) -> list[str]:
        """Movies mentioned in the turn, in order, with repeats."""
        return [piece.movie_id for piece in self.pieces if isinstance(piece, Mention)]


def merge_turns(dialogue: Dialogue) -> list[MergedTurn]:
    """The dialogue's turns; an empty message adds nothing but still counts as its sender's."""
    turns: list[MergedTurn] = []
    for message in dialogue.messages:
        if not turns or turns[-1].sender != message.sender:
            turns.append(MergedTurn(message.sender))
        merged = turns[-1].pieces
        pieces = split_mentions(message.text.strip(), dialogue.titles)
        if pieces and merged:
            merged.append(" ")
        merged += pieces
    return turns


def to_examples(
    dialogue: Dialogue, vocabulary: Vocabulary, graph: KnowledgeGraph, limits: ExampleLimits
) -> list[Example]:
    """Examples of one dialogue, in order; a turn without a token is never a target.

    Raises:
        ValueError: if a mentioned movie is not in the vocabulary.
    """
    turns = merge_turns(dialogue)
    turn_ids = vocabulary.encode_batch(turn.pieces for turn in turns)
    examples: list[Example] = []
    context_ids: list[int] = []
    context_entities: dict[int, None] = {}
    for index, (turn, ids) in enumerate(zip(turns, turn_ids, strict=True)):
        items = [vocabulary.item_index(movie_id) for movie_id in turn.movie_ids]
        if turn.sender == "recommender" and index > 0 and ids:
            examples.append(
                Example(
                    example_id=f"{dialogue.dialogue_id}:{index}",
                    context_ids=_int32(context_ids[-limits.max_context :]),
                    response_ids=_int32([*ids[: limits.max_response - 1], vocabulary.eos_id]),
                    context_entities=_int32(list(context_entities)),
                    gold_items=_int32(items),
                )
            )
        context_ids += [*ids, vocabulary.eos_id]
        for item in items:
            context_entities.setdefault(int(graph.item_entities_I[item]))
    return examples


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write JSON lines, one object per example, replacing the file as a whole."""
    write_text(path, "".join(f"{json.dumps(_to_record(example))}\n" for example in examples))


def read_examples(path: Path) -> list[Example]:
    """Examples of a prepared file; errors name the file and the line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a prepared split, got no file. Prepare the data.")
    examples = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                examples.append(_from_record(json.loads(line)))
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise ValueError(
                    f"{path}:{number}: the line must be an example, got {error!r:.100}. "
                    "Prepare the data again."
                ) from error
    return examples


def digest_examples(examples: Sequence[Example]) -> str:
    """Hex SHA-256 of all arrays of the examples, in their order."""
    arrays: dict[str, np.ndarray] = {}
    for name in ARRAY_FIELDS:
        columns = [getattr(example, name) for example in examples]
        arrays[name] = np.concatenate(columns)
        arrays[f"{name}_lengths"] = np.array([len(column) for column in columns], np.int32)
    return digest_arrays(arrays)


def _int32(values: Sequence[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def _to_record(example: Example) -> dict[str, Any]:
    arrays = {name: getattr(example, name).tolist() for name in ARRAY_FIELDS}
    return {"example_id": example.example_id, **arrays}


def _from_record(record: dict[str, Any]) -> Example:
    example = Example(
        example_id=record["example_id"],
        context_ids=_int32(record["context_ids"]),
        response_ids=_int32(record["response_ids"]),
        context_entities=_int32(record["context_entities"]),
        gold_items=_int32(record["gold_items"]),
    )
    if example.context_ids.size == 0 or example.response_ids.size == 0:
        raise ValueError("a context and a response are needed")
    return example
