"""What one split of prepared data asks of a system, in both views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from trainer.data.examples import Example
from trainer.data.prepared import PreparedData
from trainer.data.stored_dialogues import StoredDialogue
from trainer.data.vocabulary import Vocabulary
from trainer.scoring.related_films import RelatedFilms

Key = tuple[str, str]
"""Dialogue and message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One merged recommender turn that is an example: what the paper's view scores."""

    key: Key
    """Of its first message, whose record stands for it."""
    gold: tuple[str, ...]
    """Films of the whole turn, in order, with repeats."""
    cut_gold: tuple[str, ...]
    """Those before the limit of a response."""
    named: tuple[str, ...]
    """Distinct films that messages before it name, in the order in which they came up last."""
    num_characters: int
    """Of the gold response as cut, titles written out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One recommender message that names a film, not the first: what the SIGIR '26 view scores."""

    key: Key
    gold: tuple[str, ...]
    named: tuple[str, ...]
    """As those of a turn, up to this message."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredSplit:
    """One split of prepared data, as it is scored."""

    name: str
    movie_ids: tuple[str, ...]
    """The catalogue, in the order of the vocabulary."""
    films: AbstractSet[str]
    """The same, to look up."""
    dialogues: tuple[StoredDialogue, ...]
    turns: tuple[Turn, ...]
    instances: tuple[Instance, ...]
    related: RelatedFilms

    @property
    def answerable(self) -> frozenset[Key]:
        """Keys of all messages of recommenders: those that a record may have."""
        return frozenset(
            (dialogue.dialogue_id, message.message_id)
            for dialogue in self.dialogues
            for message in dialogue.messages
            if message.sender == "recommender"
        )


def scored_split(data: PreparedData, split: str) -> ScoredSplit:
    """The split of a prepared folder, in both views.

    Raises:
        InputError: if there is no such split, or it has no example.
    """
    examples = {example.example_id: example for example in data.examples(split)}
    dialogues = data.dialogues(split)
    return ScoredSplit(
        name=split,
        movie_ids=data.vocabulary.movie_ids,
        films=frozenset(data.vocabulary.movie_ids),
        dialogues=tuple(dialogues),
        turns=tuple(it for each in dialogues for it in _turns(each, examples, data.vocabulary)),
        instances=tuple(it for each in dialogues for it in _instances(each)),
        related=RelatedFilms(data.graph, data.vocabulary.movie_ids),
    )


def _turns(
    dialogue: StoredDialogue, examples: dict[str, Example], vocabulary: Vocabulary
) -> Iterator[Turn]:
    movie_ids, first = vocabulary.movie_ids, vocabulary.first_item_id
    for turn in dialogue.responses:
        example = examples[f"{dialogue.dialogue_id}:{turn}"]
        tokens = example.response_ids.tolist()
        before = [message.mentions for message in dialogue.messages if message.turn < turn]
        yield Turn(
            key=(dialogue.dialogue_id, dialogue.messages_of(turn)[0].message_id),
            gold=tuple(movie_ids[item] for item in example.gold_items.tolist()),
            cut_gold=tuple(movie_ids[it - first] for it in tokens if vocabulary.is_item(it)),
            named=_distinct(before),
            num_characters=len(vocabulary.decode(tokens).strip()),
        )


def _instances(dialogue: StoredDialogue) -> Iterator[Instance]:
    for index, message in enumerate(dialogue.messages):
        if index and message.sender == "recommender" and message.mentions:
            yield Instance(
                key=(dialogue.dialogue_id, message.message_id),
                gold=message.mentions,
                named=_distinct([it.mentions for it in dialogue.messages[:index]]),
            )


def _distinct(mentions: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Films in the order of their last mention."""
    backwards = [film for each in reversed(mentions) for film in reversed(each)]
    return tuple(reversed(dict.fromkeys(backwards)))
