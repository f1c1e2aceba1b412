"""The context of every recommender message: all that was said before it, as examples have it.

An example is a merged turn. A message inside a turn has the turn's earlier messages in its context
too, as a turn that ends there: what `to_examples` would make of a dialogue cut before the message.
The first message of an example's turn has that example's context.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.dialogue import Dialogue, Message
from trainer.data.dialogue_examples import MergedTurn, merge_turns
from trainer.data.examples import Example
from trainer.data.prepared import PreparedData
from trainer.data.stored_dialogues import StoredDialogue, StoredMessage


@dataclass(frozen=True, kw_only=True, eq=False)
class MessageContext:
    """A recommender message that has a message before it."""

    dialogue_id: str
    message_id: str
    example: Example
    """The whole turn's for the first message of an example's turn. Others have a context and an
    action alone; their example_id is "<dialogue id>/<message id>"."""
    stands_for_turn: bool
    """Whether it is the first message of an example's turn, and `example` has the gold response."""
    num_films: int
    """Distinct films in the context: named, or linked in the text."""


def message_contexts(data: PreparedData, split: str) -> list[MessageContext]:
    """All recommender messages of a split, in order, but those that open a dialogue.

    Left out is a turn after the first that has no text: it is no example either. Inside a turn the
    entities of its earlier messages are films alone: a prepared folder has no names of people and
    genres.

    Raises:
        InputError: if there is no such split, or its files are not those of the manifest.
    """
    examples = {example.example_id: example for example in data.examples(split)}
    films = frozenset(data.graph.item_entities_I.tolist())
    return [
        _context(dialogue, index, examples.get(f"{dialogue.dialogue_id}:{turn}"), data, films)
        for dialogue in data.dialogues(split)
        for index, turn in _answers(dialogue)
    ]


def _answers(dialogue: StoredDialogue) -> Iterator[tuple[int, int]]:
    """Index and turn of each message that is answered to what is before it."""
    turns = {0, *dialogue.responses}
    for index, message in enumerate(dialogue.messages):
        if index and message.sender == "recommender" and message.turn in turns:
            yield index, message.turn


def _context(
    dialogue: StoredDialogue,
    index: int,
    turn: Example | None,
    data: PreparedData,
    films: frozenset[int],
) -> MessageContext:
    """Of the message at `index`; `turn` is the example of its turn, None where that opens."""
    message = dialogue.messages[index]
    before = dialogue.messages[:index]
    said = [it for it in before if it.turn == message.turn]
    named = {movie for it in before for movie in it.mentions}
    example_id = f"{dialogue.dialogue_id}/{message.message_id}"
    example = turn
    if said:
        example = _inside_turn(example_id, turn, _merged(said, named), bool(message.mentions), data)
    assert example is not None, f"{example_id} must have something before it"
    return MessageContext(
        dialogue_id=dialogue.dialogue_id,
        message_id=message.message_id,
        example=example,
        stands_for_turn=not said,
        num_films=len({*_entities(named, data), *(set(example.context_entities.tolist()) & films)}),
    )


def _merged(said: Sequence[StoredMessage], named: Collection[str]) -> MergedTurn:
    """What a turn says so far."""
    messages = tuple(Message(it.sender, it.text) for it in said)
    (turn,) = merge_turns(Dialogue("", messages, dict.fromkeys(named, "")))
    return turn


def _inside_turn(
    example_id: str, turn: Example | None, said: MergedTurn, recommends: bool, data: PreparedData
) -> Example:
    """A context that goes on with what its turn said so far."""
    none = np.empty(0, np.int32)
    ids = [*data.vocabulary.encode(said.pieces), data.vocabulary.eos_id]
    tokens = np.concatenate([none if turn is None else turn.context_ids, ids])
    entities = [] if turn is None else turn.context_entities.tolist()
    words = [] if turn is None else turn.context_words.tolist()
    return Example(
        example_id=example_id,
        context_ids=tokens[-data.manifest.options.max_context :].astype(np.int32),
        response_ids=np.array([data.vocabulary.eos_id], np.int32),
        context_entities=_distinct([*entities, *_entities(said.movie_ids, data)]),
        context_words=np.array([*words, *data.words.find(said.text)], np.int32),
        gold_items=none,
        is_recommendation=recommends,
        continues_turn=True,
    )


def _entities(movie_ids: Collection[str], data: PreparedData) -> list[int]:
    entities_I = data.graph.item_entities_I
    return [int(entities_I[data.vocabulary.item_index(movie)]) for movie in movie_ids]


def _distinct(ids: Sequence[int]) -> np.ndarray:
    return np.array(list(dict.fromkeys(ids)), np.int32)
