"""Any number of systems on one split: their scores side by side, and each against the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.common.errors import InputError
from trainer.data.prepared import PreparedData
from trainer.scoring.answers import MissingRecords
from trainer.scoring.card import SystemCard, read_system_card
from trainer.scoring.comparison import Comparison, ScoredSystem
from trainer.scoring.paired import Paired, paired
from trainer.scoring.records import Record, read_records
from trainer.scoring.scored_split import ScoredSplit, scored_split
from trainer.scoring.views import VIEWS, Sums, baseline_view


def compare_systems(
    files: Sequence[Path], baselines: Sequence[str], data: PreparedData, split: str
) -> Comparison:
    """Score files of records, then baselines on the dialogues that these answer.

    Raises:
        MissingError: if a file is missing.
        InputError: if a file does not fit the data, or another file.
    """
    assert files or baselines, "a system must be named"
    # What the reader can mend is looked at before the work.
    read = [(path, read_records(path), read_system_card(path)) for path in files]
    for path, _, card in read:
        _check_card(card, path, data, split)
    scored = scored_split(data, split)
    names = _names(read, baselines)
    systems = [
        _score(records, scored, name=name, card=card, file=str(path))
        for name, (path, records, card) in zip(names, read, strict=True)
    ]
    covered = {record.dialogue for _, records, _ in read for record in records}
    systems += _score_baselines(baselines, scored, data, covered)
    return Comparison(
        split=split,
        num_dialogues=len(scored.dialogues),
        systems=tuple(systems),
        paired={it.name: _pair(it, systems[0]) for it in systems[1:]},
    )


def _check_card(card: SystemCard, path: Path, data: PreparedData, split: str) -> None:
    """Refuse records that their card says to be of another vocabulary, data or split."""
    for what, found, wanted in (
        ("split", card.split, split),
        ("vocabulary_digest", card.vocabulary_digest, data.vocabulary.digest),
        ("data_digest", card.data_digest, data.manifest.dialogue_digests.get(split)),
    ):
        if found is not None and found != wanted:
            raise InputError(
                f"{what} of {path} must be the data's, {wanted}, got {found}. Score the file with "
                "the data and the split that it was made of."
            )


def _names(
    read: Sequence[tuple[Path, Sequence[Record], SystemCard]], others: Sequence[str]
) -> list[str]:
    """The cards' names, or if these are not distinct with the files' names, or paths."""
    for names in (
        [card.system for _, _, card in read],
        [f"{card.system} ({path.stem})" for path, _, card in read],
        [str(path) for path, _, _ in read],
    ):
        if len({*names, *others}) == len(names) + len(others):
            return names
    raise InputError("each file must be given once, got one twice. Name it once.")


def _score_baselines(
    names: Sequence[str], split: ScoredSplit, data: PreparedData, covered: set[str]
) -> list[ScoredSystem]:
    train = data.dialogues("train") if names else []
    return [
        ScoredSystem(
            name=name,
            card=SystemCard(system=name),
            file=None,
            views={view: baseline_view(view, name, split, train, covered) for view in VIEWS},
            notes=(),
        )
        for name in names
    ]


def _score(
    records: Sequence[Record], split: ScoredSplit, *, name: str, card: SystemCard, file: str | None
) -> ScoredSystem:
    views: dict[str, Sums] = {}
    notes: list[str] = []
    for view, sums_of in VIEWS.items():
        try:
            views[view] = sums_of(records, split)
        except MissingRecords as error:
            notes.append(f"{name}: {error}")
        except InputError as error:
            raise InputError(f"{file or name}: {error}") from error
    if not views:
        raise InputError(f"{file or name}: {notes[0].removeprefix(f'{name}: ')}")
    return ScoredSystem(
        name=name, card=card, file=file, views=views, notes=(*notes, *_notes(name, views, split))
    )


def _notes(name: str, views: Mapping[str, Sums], split: ScoredSplit) -> list[str]:
    """What a reader must know of the sums."""
    notes = []
    num_covered = max(len(variants["all"].dialogues) for variants in views.values())
    wanted = len({it.key[0] for it in split.turns})
    if num_covered < wanted:
        notes.append(f"{name}: answers {num_covered} of {wanted} dialogues.")
    counts = views["paper"]["all"].counts if "paper" in views else {}
    short = int(counts["short_lists"].sum()) if "short_lists" in counts else 0
    if short:
        notes.append(
            f"{name}: {short:,} lists are shorter than 50 films and those named before: what they "
            "leave out counts as not found."
        )
    return notes


def _pair(system: ScoredSystem, first: ScoredSystem) -> dict[str, dict[str, dict[str, Paired]]]:
    """A system against the first, in the views that both have answered."""
    return {
        view: {
            variant: paired([sums], [first.views[view][variant]])
            for variant, sums in variants.items()
        }
        for view, variants in system.views.items()
        if view in first.views
    }
