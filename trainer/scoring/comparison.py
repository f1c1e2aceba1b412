"""Systems side by side, as JSON: their scores, and each against the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.scoring.card import SystemCard
from trainer.scoring.intervals import intervals
from trainer.scoring.metrics import scores
from trainer.scoring.paired import Paired
from trainer.scoring.sums import DialogueSums
from trainer.scoring.views import VIEWS, Sums


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


def _scored(sums: DialogueSums) -> dict[str, Any]:
    ends = {name: list(each) for name, each in intervals(sums).items()}
    return {**scores(sums), "intervals": ends}
