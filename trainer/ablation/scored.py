"""The records of one system as scores, and as sums from which any test can be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    def with_view(self, name: str, sums: DialogueSums) -> Scored:
        """The same and one more view."""
        return Scored(
            scores={**self.scores, name: scores(sums)}, sums={**self.sums, name: sums.to_dict()}
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
