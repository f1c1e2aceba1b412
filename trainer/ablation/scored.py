"""The records of one system as scores, and as sums from which any test can be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.common.errors import InputError
from trainer.data.prepared import PreparedData
from trainer.scoring.metrics import scores
from trainer.scoring.paper_view import paper_view
from trainer.scoring.records import read_records
from trainer.scoring.sigir26_view import sigir26_view
from trainer.scoring.sums import DialogueSums


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Both views, over all gold and over new items."""

    scores: Mapping[str, Mapping[str, float | None]]
    """View -> metric -> score."""
    sums: Mapping[str, Mapping[str, Any]]
    """View -> DialogueSums, as JSON."""

    def with_counts(self, view: str, more: DialogueSums) -> Scored:
        """The same with more counts in one view, so that all tests of it read them, too.

        Raises:
            InputError: if they are of other dialogues.
        """
        sums = DialogueSums.from_dict(self.sums[view], view)
        if more.dialogues != sums.dialogues:
            raise InputError(
                f"counts beside {view} must be of its {len(sums.dialogues)} dialogues, got "
                f"{len(more.dialogues)} others. Count the same split."
            )
        both = DialogueSums(dialogues=sums.dialogues, counts={**sums.counts, **more.counts})
        return Scored(
            scores={**self.scores, view: scores(both)}, sums={**self.sums, view: both.to_dict()}
        )


def score_records(path: Path, data: PreparedData, split: str) -> Scored:
    """Read and score a file of records.

    Raises:
        MissingError, InputError: as reading and the views do.
    """
    records = read_records(path)
    views = {
        "paper": paper_view(records, data, split),
        "sigir26": sigir26_view(records, data, split),
    }
    sums = {f"{view}.{part}": each for view, parts in views.items() for part, each in parts.items()}
    return Scored(
        scores={name: scores(each) for name, each in sums.items()},
        sums={name: each.to_dict() for name, each in sums.items()},
    )
