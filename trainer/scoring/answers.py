"""Records laid beside what they answer, after a check of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from trainer.common.errors import InputError
from trainer.data.dialogue import Mention, split_mentions
from trainer.scoring.records import REMEDY, Record
from trainer.scoring.scored_split import Instance, Key, ScoredSplit, Turn
from trainer.scoring.sums import DialogueSums

AskedT = TypeVar("AskedT", Turn, Instance)


class MissingRecords(InputError):
    """A system has not answered all that a view reads."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers(Generic[AskedT]):
    """What was asked in the dialogues of which there are records, and the record of each."""

    dialogues: tuple[str, ...]
    """In the order of the split; those in which something is asked."""
    pairs: tuple[tuple[AskedT, Record], ...]


def check_records(records: Sequence[Record], split: ScoredSplit) -> None:
    """Refuse records of other examples, and films that are no film of the corpus.

    Raises:
        InputError: naming the first record that does not fit.
    """
    if not records:
        raise InputError("a system must have at least 1 record, got none. Let it answer first.")
    answerable = split.answerable
    for record in records:
        if record.key not in answerable:
            raise InputError(
                f"{_name(record.key)} must be a recommender's in the split {split.name}, got none "
                "there. Score the file with the data and the split that it was made of."
            )
        _check_films(record, split)


def lay_out(records: Sequence[Record], asked: Sequence[AskedT], what: str) -> Answers[AskedT]:
    """Everything that is asked in the records' dialogues, each with its record.

    Raises:
        MissingRecords: if nothing is asked there, or a record is missing; `what` names the view.
    """
    by_key: Mapping[Key, Record] = {record.key: record for record in records}
    covered = {record.dialogue for record in records}
    wanted = [it for it in asked if it.key[0] in covered]
    missing = [it.key for it in wanted if it.key not in by_key]
    if missing or not wanted:
        which = f"the first is {_name(missing[0])}" if missing else "nothing is asked there"
        raise MissingRecords(
            f"a system must have a record of each message that {what} reads in its dialogues, got "
            f"{len(wanted) - len(missing)} of {len(wanted)} ({which}). Let it answer these too."
        )
    return Answers(
        dialogues=tuple(dict.fromkeys(it.key[0] for it in wanted)),
        pairs=tuple((it, by_key[it.key]) for it in wanted),
    )


def sum_counts(
    dialogues: Sequence[str], counted: Iterable[tuple[str, Mapping[str, float]]]
) -> DialogueSums:
    """Sums by dialogue of (dialogue, counts); the names of all counts are the same."""
    row_of = {dialogue: row for row, dialogue in enumerate(dialogues)}
    counts: dict[str, np.ndarray] = {}
    for dialogue, each in counted:
        for name, value in each.items():
            counts_N = counts.setdefault(name, np.zeros(len(dialogues)))
            counts_N[row_of[dialogue]] += value
    return DialogueSums(dialogues=tuple(dialogues), counts=counts)


def _check_films(record: Record, split: ScoredSplit) -> None:
    lists = [slot.ranked for slot in record.slots] + [record.ranking or ()]
    unknown = [film for films in lists for film in films if film not in split.films]
    if unknown:
        raise InputError(
            f"films of {_name(record.key)} must be ids of the corpus, got {unknown[0]!r:.40}. "
            f"{REMEDY}"
        )
    named = [
        it.movie_id for it in split_mentions(record.text, split.films) if isinstance(it, Mention)
    ]
    items = [slot.item for slot in record.slots]
    if named != items:
        raise InputError(
            f"slots of {_name(record.key)} must be the films of its text in order, "
            f"{named[:5]}, got {items[:5]}. {REMEDY}"
        )


def _name(key: Key) -> str:
    return f"message {key[1]} of dialogue {key[0]}"
