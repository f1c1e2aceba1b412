"""From dialogues to examples: one per recommender turn that has something before it.

C context tokens, n response tokens, E entities, W words, G gold items.

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
from trainer.common.atomic import write_text
from trainer.data.dialogue import Dialogue, Mention, Piece, Sender, split_mentions
from trainer.data.entity_linker import EntityLinker
from trainer.data.knowledge_graph import KnowledgeGraph
from trainer.data.vocabulary import Vocabulary
from trainer.data.word_graph import WordGraph

ARRAY_FIELDS = ("context_ids", "response_ids", "context_entities", "context_words", "gold_items")


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """What an example keeps of a dialogue."""

    max_context: int = 256
    """Last tokens of the context that are kept."""
    max_response: int = 30
    """Tokens of the response with its end of text; its head is kept."""
    drop_unlinked: bool = False
    """Movies without a DBpedia page are no gold items and no context entities, as with the peers;
    a fifth of ReDial's mentions. Their tokens stay in the text."""
    link_entities: bool = True
    """People, films and genres named in plain text are context entities too."""

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
    """[E] entities named before, distinct, in order; may be empty."""
    context_words: np.ndarray
    """[W] words of the word graph said before, in order, repeats kept; may be empty."""
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

    @property
    def text(self) -> str:
        """What is said beside the movies, a space where one was."""
        return "".join(" " if isinstance(piece, Mention) else piece for piece in self.pieces)


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


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What texts are annotated with."""

    graph: KnowledgeGraph
    words: WordGraph
    linker: EntityLinker | None
    """None: entities are the movies' alone."""
    dropped_items: frozenset[int]
    """Items that are neither gold nor in the context."""

    def entities(self, turn: MergedTurn, vocabulary: Vocabulary) -> list[int]:
        """Entities that a turn names, in order, repeats kept."""
        found: list[int] = []
        for piece in turn.pieces:
            if isinstance(piece, Mention):
                item = vocabulary.item_index(piece.movie_id)
                if item not in self.dropped_items:
                    found.append(int(self.graph.item_entities_I[item]))
            elif self.linker is not None:
                found += [link.entity for link in self.linker.link(piece)]
        return found


def to_examples(
    dialogue: Dialogue, vocabulary: Vocabulary, knowledge: Knowledge, options: ExampleOptions
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
    context_words: list[int] = []
    for index, (turn, ids) in enumerate(zip(turns, turn_ids, strict=True)):
        if turn.sender == "recommender" and index > 0 and ids:
            items = [vocabulary.item_index(movie_id) for movie_id in turn.movie_ids]
            examples.append(
                Example(
                    example_id=f"{dialogue.dialogue_id}:{index}",
                    context_ids=_int32(context_ids[-options.max_context :]),
                    response_ids=_int32([*ids[: options.max_response - 1], vocabulary.eos_id]),
                    context_entities=_int32(list(context_entities)),
                    context_words=_int32(context_words),
                    gold_items=_int32([i for i in items if i not in knowledge.dropped_items]),
                )
            )
        context_ids += [*ids, vocabulary.eos_id]
        context_entities |= dict.fromkeys(knowledge.entities(turn, vocabulary))
        context_words += knowledge.words.find(turn.text)
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


def last_ids(ids: np.ndarray, limit: int) -> np.ndarray:
    """The last ids, at most `limit`: what a model uses of a context's entities and words."""
    return ids[max(0, len(ids) - limit) :]


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
        context_words=_int32(record["context_words"]),
        gold_items=_int32(record["gold_items"]),
    )
    if example.context_ids.size == 0 or example.response_ids.size == 0:
        raise ValueError("a context and a response are needed")
    return example
