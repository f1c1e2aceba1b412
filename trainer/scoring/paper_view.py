"""The paper's view (Tables 1-4, 8, Appendix F): one response a merged recommender turn."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.data.prepared import PreparedData
from trainer.scoring.records import Record
from trainer.scoring.sums import DialogueSums


def paper_view(
    records: Sequence[Record], data: PreparedData, split: str
) -> dict[str, DialogueSums]:
    """Sums over all gold ("all") and over new items only ("new").

    Reads the record of the first message of each merged turn that is an example, in every dialogue
    of which there are records.

    Raises:
        InputError: if a record is of no recommender message of the split, or one is missing.
    """
    raise NotImplementedError
