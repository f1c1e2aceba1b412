"""Counts of another comparison stand beside those of a view, of the same dialogues."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.ablation.scored import Scored
from trainer.scoring.sums import DialogueSums

PAPER = "paper.all"


def sums(dialogues: tuple[str, ...], **counts: list[float]) -> DialogueSums:
    arrays = {name: np.array(values, np.float64) for name, values in counts.items()}
    return DialogueSums(dialogues=dialogues, counts=arrays)


@pytest.fixture
def scored() -> Scored:
    of_paper = sums(("a", "b"), nll=[2.0, 4.0], gold_tokens=[1.0, 2.0])
    others = {"other": sums(("a",), nll=[1.0])}
    return Scored(
        scores={PAPER: {"perplexity": 7.4}, "other": {}},
        sums={name: it.to_dict() for name, it in {PAPER: of_paper, **others}.items()},
    )


def test_more_counts_give_more_scores_of_one_view(scored: Scored) -> None:
    more = sums(("a", "b"), kl_dialogue=[1.0, 2.0], positions=[2.0, 4.0])
    both = scored.with_counts(PAPER, more)
    assert both.scores[PAPER]["kl_dialogue"] == pytest.approx(0.5)
    assert both.scores[PAPER]["perplexity"] == pytest.approx(np.exp(2.0))
    assert both.sums[PAPER]["counts"]["kl_dialogue"] == [1, 2]
    assert both.sums["other"] == scored.sums["other"]
    assert "kl_dialogue" not in scored.sums[PAPER]["counts"]


def test_counts_of_other_dialogues_are_refused(scored: Scored) -> None:
    other = sums(("b", "a"), kl_dialogue=[1.0, 2.0], positions=[2.0, 4.0])
    with pytest.raises(ValueError, match=r"beside paper\.all must be of its 2 dialogues, got 2"):
        scored.with_counts(PAPER, other)
