"""Any number of systems on one split: their scores side by side, and each against the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.common.errors import InputError
from trainer.data.prepared import PreparedData
from trainer.scoring.answers import MissingRecords
from trainer.scoring.baselines import NOT_THEIRS, baseline_records
from trainer.scoring.card import SystemCard, read_system_card
from trainer.scoring.intervals import intervals
from trainer.scoring.metrics import scores
from trainer.scoring.paired import Paired, paired
from trainer.scoring.paper_view import paper_sums
from trainer.scoring.records import Record, read_records
from trainer.scoring.scored_split import ScoredSplit, scored_split
from trainer.scoring.sigir26_view import sigir26_sums
from trainer.scoring.sums import DialogueSums

Sums = Mapping[str, DialogueSums]
"""Variant, "all" or "new" -> sums."""
VIEWS: Mapping[str, Callable[[Sequence[Record], ScoredSplit], Sums]] = {
    "sigir26": sigir26_sums,
    "paper": paper_sums,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredSystem:
    """One system with its sums."""

    name: str
    card: SystemCard
    file: str | None
    """None: a baseline."""
    views: Mapping[str, Sums]
    """View -> variant -> sums; a view that the system has not answered is left out."""
    notes: tuple[str, ...]
    """What a reader of its scores must know."""

    def to_dict(self) -> dict[str, Any]:
        """Scores with their intervals; a view that the system has not answered is null."""
        views = {
            view: {variant: _scored(sums) for variant, sums in self.views[view].items()}
            if view in self.views
            else None
            for view in VIEWS
        }
        return {
            "file": self.file,
            "card": dataclasses.asdict(self.card),
            **views,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Systems on one split, and what each is worth against the first."""

    split: str
    num_dialogues: int
    """Of the split."""
    systems: tuple[ScoredSystem, ...]
    paired: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Paired]]]]
    """System -> view -> variant -> metric -> that system against the first."""

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {
            "split": self.split,
            "dialogues": self.num_dialogues,
            "systems": {system.name: system.to_dict() for system in self.systems},
            "against": self.systems[0].name,
            "paired": {
                name: {
                    view: {
                        variant: {metric: dataclasses.asdict(it) for metric, it in found.items()}
                        for variant, found in variants.items()
                    }
                    for view, variants in views.items()
                }
                for name, views in self.paired.items()
            },
        }


def compare_systems(
    files: Sequence[Path], baselines: Sequence[str], data: PreparedData, split: str
) -> Comparison:
    """Score files of records, then baselines on the dialogues that these answer.

    Raises:
        MissingError: if a file is missing.
        InputError: if there is no system, or a file does not fit the data, or another file.
    """
    if not (files or baselines):
        raise InputError("a file of records must be given, got none. Name one, or --baselines.")
    # What the reader can mend is looked at before the work.
    read = [(path, read_records(path), read_system_card(path)) for path in files]
    for path, _, card in read:
        _check_card(card, path, data, split)
    scored = scored_split(data, split)
    names = _names(read)
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


def _names(read: Sequence[tuple[Path, Sequence[Record], SystemCard]]) -> list[str]:
    """The cards' names, with the files' where several have one name."""
    names = [card.system for _, _, card in read]
    if len(set(names)) < len(names):
        names = [f"{card.system} ({path.stem})" for path, _, card in read]
    if len(set(names)) < len(names):
        names = [str(path) for path, _, _ in read]
    if len(set(names)) < len(names):
        raise InputError("each file must be given once, got one twice. Name it once.")
    return names


def _score_baselines(
    names: Sequence[str], split: ScoredSplit, data: PreparedData, covered: set[str]
) -> list[ScoredSystem]:
    """Baselines on the dialogues that are covered, or on all if there are none."""
    if not names:
        return []
    train = data.dialogues("train")
    systems = []
    for name in names:
        records = baseline_records(name, split, train)
        kept = [record for record in records if record.dialogue in covered] if covered else records
        system = _score(kept, split, name=name, card=SystemCard(system=name), file=None)
        views = {
            view: {variant: sums.without(NOT_THEIRS) for variant, sums in variants.items()}
            for view, variants in system.views.items()
        }
        systems.append(dataclasses.replace(system, views=views))
    return systems


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
    short = int(views["paper"]["all"].counts["short_lists"].sum()) if "paper" in views else 0
    if short:
        notes.append(
            f"{name}: {short} lists are shorter than 50 films and those named before: what they "
            "leave out counts as not found."
        )
    return notes


def _scored(sums: DialogueSums) -> dict[str, Any]:
    ends = {name: list(each) for name, each in intervals(sums).items()}
    return {**scores(sums), "intervals": ends}


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
