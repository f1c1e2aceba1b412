"""Counts of one system, summed within each dialogue: all that a score, an interval or a test needs.

N dialogues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.common.errors import InputError
from trainer.common.text_files import as_object

DECIMALS = 9
REMEDY = "Score the system again."


@dataclass(frozen=True, kw_only=True, eq=False)
class DialogueSums:
    """Counts over the same dialogues, in the same order."""

    dialogues: tuple[str, ...]
    counts: Mapping[str, np.ndarray]
    """Name of a count -> float64 [N]. A count that the system has not is left out."""

    def __post_init__(self) -> None:
        for name, counts_N in self.counts.items():
            if counts_N.dtype != np.float64 or counts_N.shape != (len(self.dialogues),):
                raise InputError(
                    f"count {name} must be float64 [{len(self.dialogues)}], got "
                    f"{counts_N.dtype} {list(counts_N.shape)}. {REMEDY}"
                )
            if not np.isfinite(counts_N).all():
                raise InputError(f"count {name} must be finite, got NaN or inf. {REMEDY}")

    def without(self, names: frozenset[str]) -> DialogueSums:
        """The same sums without some counts."""
        kept = {name: it for name, it in self.counts.items() if name not in names}
        return DialogueSums(dialogues=self.dialogues, counts=kept)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; whole numbers as such, others with nine decimals."""
        counts = {
            name: [int(it) if it.is_integer() else round(it, DECIMALS) for it in counts_N.tolist()]
            for name, counts_N in self.counts.items()
        }
        return {"dialogues": list(self.dialogues), "counts": counts}

    @staticmethod
    def from_dict(content: Any, place: str) -> DialogueSums:
        """What `to_dict` gave; `place` is named in the InputError of anything else."""
        record = as_object(content, place, remedy=REMEDY)
        try:
            counts = {n: np.array(it, np.float64) for n, it in record["counts"].items()}
            return DialogueSums(dialogues=tuple(map(str, record["dialogues"])), counts=counts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{place} must hold counts of dialogues, got {error!r:.100}. {REMEDY}"
            ) from error
