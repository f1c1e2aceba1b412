"""From dialogues to examples: one per recommender turn that has something before it.

Source of the sample construction: KGSF (Zhou et al., KDD 2020), but unlinked movies are kept and a
long response keeps its head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.common.errors import InputError
from trainer.data.dialogue import Dialogue, Mention, Piece, Sender, split_mentions
from trainer.data.entity_linker import EntityLinker
from trainer.data.examples import Example
from trainer.data.knowledge_graph import KnowledgeGraph
from trainer.data.vocabulary import Vocabulary
from trainer.data.word_graph import WordGraph


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
            raise InputError(f"max_context must be at least 1, got {self.max_context}.")
        if self.max_response < 2:
            raise InputError(
                f"max_response must be at least 2 (a token and its end), got {self.max_response}."
            )


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
        """The text without the movies, a space in place of each."""
        return "".join(" " if isinstance(piece, Mention) else piece for piece in self.pieces)


def turn_numbers(dialogue: Dialogue) -> list[int]:
    """The merged turn of each message: a new one begins where the sender changes."""
    numbers: list[int] = []
    before: Sender | None = None
    for message in dialogue.messages:
        is_new = message.sender != before
        numbers.append(numbers[-1] + is_new if numbers else 0)
        before = message.sender
    return numbers


def merge_turns(dialogue: Dialogue) -> list[MergedTurn]:
    """The dialogue's turns; an empty message adds nothing but still counts as its sender's."""
    turns: list[MergedTurn] = []
    for number, message in zip(turn_numbers(dialogue), dialogue.messages, strict=True):
        if number == len(turns):
            turns.append(MergedTurn(message.sender))
        merged = turns[number].pieces
        pieces = split_mentions(message.text.strip(), dialogue.titles)
        if pieces and merged:
            merged.append(" ")
        merged += pieces
    return turns


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """Graphs and linker that annotate a text with entities and words."""

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
        InputError: if a mentioned movie is not in the vocabulary.
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
            kept_ids = ids[: options.max_response - 1]
            examples.append(
                Example(
                    example_id=f"{dialogue.dialogue_id}:{index}",
                    context_ids=_int32(context_ids[-options.max_context :]),
                    response_ids=_int32([*kept_ids, vocabulary.eos_id]),
                    context_entities=_int32(list(context_entities)),
                    context_words=_int32(context_words),
                    gold_items=_int32([i for i in items if i not in knowledge.dropped_items]),
                    is_recommendation=any(map(vocabulary.is_item, kept_ids)),
                )
            )
        context_ids += [*ids, vocabulary.eos_id]
        context_entities |= dict.fromkeys(knowledge.entities(turn, vocabulary))
        context_words += knowledge.words.find(turn.text)
    return examples


def _int32(values: Sequence[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)
