"""Both views of what a system said, by their names in JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from trainer.data.stored_dialogues import StoredDialogue
from trainer.scoring.baselines import baseline_records
from trainer.scoring.paper_view import paper_sums
from trainer.scoring.records import Record
from trainer.scoring.scored_split import ScoredSplit
from trainer.scoring.sigir26_view import sigir26_sums
from trainer.scoring.sums import DialogueSums

Sums = Mapping[str, DialogueSums]
"""Variant, "all" or "new" -> sums."""
VIEWS: Mapping[str, Callable[[Sequence[Record], ScoredSplit], Sums]] = {
    "sigir26": sigir26_sums,
    "paper": paper_sums,
}
NOT_THEIRS = frozenset({"responses_with_slot"})
"""Counts that say nothing of a baseline, which is told when to recommend."""


def baseline_view(
    view: str,
    name: str,
    split: ScoredSplit,
    train: Sequence[StoredDialogue],
    covered: AbstractSet[str],
) -> Sums:
    """Sums of a baseline in one view, on the dialogues that are covered; on all if none is."""
    records = baseline_records(name, split, train)
    kept = [record for record in records if record.dialogue in covered] if covered else records
    sums = paper_sums(kept, split, has_words=False) if view == "paper" else VIEWS[view](kept, split)
    return {variant: it.without(NOT_THEIRS) for variant, it in sums.items()}
