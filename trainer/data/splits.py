"""The dialogues of a corpus by split, read and checked; without a valid split, one is drawn."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from trainer.common.errors import InputError
from trainer.data.dialogue import SPLITS, BadRecord, Dialogue, Mention, Split

VALID_SHARE = 0.09
"""Of the train dialogues; of ReDial's 10,006 that is 901, as in the peers' files."""
MAX_TOLD = 20
"""Bad records that one error tells."""

Dialogues = dict[Split, list[Dialogue]]
Record = Dialogue | BadRecord


@dataclass(frozen=True, kw_only=True)
class LoadedSplits:
    """All dialogues, which of them were drawn for valid, and what was left out."""

    dialogues: Dialogues
    drawn_valid_ids: tuple[str, ...]
    """In the order of the train split; empty if the corpus has a valid split."""
    skipped: Mapping[Split, Sequence[BadRecord]]
    """Bad records of each split that the corpus has."""


def load_splits(
    readers: Mapping[Split, Iterable[Record]],
    *,
    movie_ids: Container[str],
    valid_seed: int,
    skip_bad: bool = False,
    progress: Progress,
) -> LoadedSplits:
    """Read and check every dialogue.

    Args:
        readers: dialogues of each split, as a corpus reads them; valid may be missing.
        movie_ids: the catalogue; every movie mentioned must be in it.
        valid_seed: draws valid if it is missing.
        skip_bad: leave out bad records, instead of raising an error that tells them.

    Raises:
        InputError: if train or test is missing, or for all that is wrong.
    """
    missing = [split for split in ("train", "test") if split not in readers]
    if missing:
        raise InputError(
            f"a corpus must have the splits train and test, got no {missing[0]}. Add it."
        )
    door = _Door(movie_ids)
    dialogues: Dialogues = {}
    for split in SPLITS:
        if split in readers:
            tracked = progress.track(readers[split], total=None, description=f"reading {split}")
            dialogues[split] = door.let_in(split, tracked)
    if not skip_bad:
        check_records([record for records in door.bad.values() for record in records])
    drawn: tuple[str, ...] = ()
    if "valid" not in dialogues:
        train, valid = draw_valid(dialogues["train"], valid_seed)
        drawn = tuple(dialogue.dialogue_id for dialogue in valid)
        dialogues = {"train": train, "valid": valid, "test": dialogues["test"]}
    return LoadedSplits(dialogues=dialogues, drawn_valid_ids=drawn, skipped=door.bad)


def draw_valid(dialogues: Sequence[Dialogue], seed: int) -> tuple[list[Dialogue], list[Dialogue]]:
    """The rest and a seeded share for valid, both in the given order."""
    num_valid = max(1, round(VALID_SHARE * len(dialogues)))
    if num_valid >= len(dialogues):
        raise InputError(
            "the train split must hold at least two dialogues to draw valid from, got "
            f"{len(dialogues)}. Add a valid split."
        )
    drawn = set(np.random.default_rng(seed).permutation(len(dialogues))[:num_valid].tolist())
    rest = [dialogue for index, dialogue in enumerate(dialogues) if index not in drawn]
    return rest, [dialogue for index, dialogue in enumerate(dialogues) if index in drawn]


def check_records(bad: Sequence[BadRecord]) -> None:
    """Raise an InputError that tells the first MAX_TOLD bad records; nothing if there is none."""
    if not bad:
        return
    lines = [f"{record.place}: {record.problem}" for record in bad]
    skip = "Or leave the dialogue out with --skip-bad."
    if len(lines) == 1:
        raise InputError(f"{lines[0]} {skip}")
    rest = [f"and {len(lines) - MAX_TOLD:,} more"] if len(lines) > MAX_TOLD else []
    raise InputError(
        f"every record must be a dialogue, got {len(lines):,} that are not. "
        "Correct them, or leave them out with --skip-bad:",
        details=[*lines[:MAX_TOLD], *rest],
    )


class _Door:
    """Lets in what is a dialogue, its id not taken and its movies in the catalogue."""

    def __init__(self, movie_ids: Container[str]) -> None:
        self.bad: dict[Split, list[BadRecord]] = {}
        self._movie_ids = movie_ids
        self._owner: dict[str, tuple[Split, str]] = {}

    def let_in(self, split: Split, records: Iterable[Record]) -> list[Dialogue]:
        """The dialogues of a split; the rest is in `bad`."""
        bad = self.bad.setdefault(split, [])
        dialogues: list[Dialogue] = []
        for record in records:
            if isinstance(record, BadRecord):
                bad.append(record)
            elif problem := self._id_problem(split, record) or self._movie_problem(record):
                place = record.origin.place or f"dialogue {record.dialogue_id} of {split}"
                bad.append(BadRecord(place, problem))
            else:
                self._owner[record.dialogue_id] = split, record.origin.place
                dialogues.append(record)
        return dialogues

    def _id_problem(self, split: Split, dialogue: Dialogue) -> str | None:
        if dialogue.dialogue_id not in self._owner:
            return None
        owner, place = self._owner[dialogue.dialogue_id]
        first = f" (first at {place})" if place else ""
        return (
            f"dialogue {dialogue.dialogue_id} must be in one split once, got it in {owner} and "
            f"{split}{first}. Remove one of the two."
        )

    def _movie_problem(self, dialogue: Dialogue) -> str | None:
        mentions = (piece for piece in dialogue.pieces() if isinstance(piece, Mention))
        unknown = next((it.movie_id for it in mentions if it.movie_id not in self._movie_ids), None)
        if unknown is None:
            return None
        return (
            f"dialogue {dialogue.dialogue_id} must mention movies of the graph, got @{unknown}. "
            "Add the movie to the graph's movies, or remove it from the dialogue's."
        )
