"""The SIGIR '26 view: one instance a recommender message that names a film.

Source: Kostric and Balog, SIGIR 2026: raw messages, micro recall, success rate and reward.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainer.data.prepared import PreparedData
from trainer.scoring.records import Record
from trainer.scoring.sums import DialogueSums


def sigir26_view(
    records: Sequence[Record], data: PreparedData, split: str
) -> dict[str, DialogueSums]:
    """Sums over all instances ("all") and over gold that was not named before ("new").

    Raises:
        InputError: if a record is of no recommender message of the split, or one is missing.
    """
    raise NotImplementedError
