"""The dialogues of a corpus by split, read and checked; without a valid split, one is drawn."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from trainer.common.errors import InputError
from trainer.data.dialogue import SPLITS, Dialogue, Mention, Split

VALID_SHARE = 0.09
"""Of the train dialogues; of ReDial's 10,006 that is 901, as in the peers' files."""

Dialogues = dict[Split, list[Dialogue]]


@dataclass(frozen=True, kw_only=True)
class LoadedSplits:
    """All dialogues, and which of them were drawn for valid."""

    dialogues: Dialogues
    drawn_valid_ids: tuple[str, ...]
    """In the order of the train split; empty if the corpus has a valid split."""


def load_splits(
    readers: Mapping[Split, Iterable[Dialogue]],
    *,
    movie_ids: Container[str],
    valid_seed: int,
    progress: Progress,
) -> LoadedSplits:
    """Read and check every dialogue.

    Args:
        readers: dialogues of each split, as a corpus reads them; valid may be missing.
        movie_ids: the catalogue; every movie mentioned must be in it.
        valid_seed: draws valid if it is missing.

    Raises:
        InputError: if train or test is missing, or for the first dialogue that is wrong.
    """
    missing = [split for split in ("train", "test") if split not in readers]
    if missing:
        raise InputError(f"a corpus must have the splits train and test, got no {missing[0]}.")
    dialogues: Dialogues = {}
    for split in SPLITS:
        if split in readers:
            tracked = progress.track(readers[split], total=None, description=f"reading {split}")
            dialogues[split] = list(tracked)
    check_unique(dialogues)
    check_mentions(dialogues, movie_ids)
    if "valid" in dialogues:
        return LoadedSplits(dialogues=dialogues, drawn_valid_ids=())
    train, valid = draw_valid(dialogues["train"], valid_seed)
    return LoadedSplits(
        dialogues={"train": train, "valid": valid, "test": dialogues["test"]},
        drawn_valid_ids=tuple(dialogue.dialogue_id for dialogue in valid),
    )


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


def check_unique(dialogues: Mapping[Split, Iterable[Dialogue]]) -> None:
    """Raise InputError if a dialogue id occurs twice, in one split or in two."""
    owner: dict[str, str] = {}
    for split, members in dialogues.items():
        for dialogue in members:
            if dialogue.dialogue_id in owner:
                raise InputError(
                    f"dialogue {dialogue.dialogue_id} must be in one split, got it in "
                    f"{owner[dialogue.dialogue_id]} and {split}. Remove one of the two."
                )
            owner[dialogue.dialogue_id] = split


def check_mentions(
    dialogues: Mapping[Split, Iterable[Dialogue]], movie_ids: Container[str]
) -> None:
    """Raise InputError if a text mentions a movie outside the catalogue."""
    for split, members in dialogues.items():
        for dialogue in members:
            mentions = (piece for piece in dialogue.pieces() if isinstance(piece, Mention))
            unknown = next((it.movie_id for it in mentions if it.movie_id not in movie_ids), None)
            if unknown is not None:
                raise InputError(
                    f"dialogue {dialogue.dialogue_id} of {split} must mention movies of the graph, "
                    f"got @{unknown}. Add the movie to the graph's movies, or remove it from the "
                    "dialogue's."
                )
