from __future__ import annotations

import numpy as np
import pytest

from trainer.scoring.intervals import draw_dialogues, intervals
from trainer.scoring.sums import DialogueSums


def some_sums(num_dialogues: int, seed: int = 0) -> DialogueSums:
    rng = np.random.default_rng(seed)
    gold_N = rng.integers(1, 5, num_dialogues).astype(np.float64)
    return DialogueSums(
        dialogues=tuple(map(str, range(num_dialogues))),
        counts={
            "gold": gold_N,
            "matched_10": rng.binomial(gold_N.astype(int), 0.3).astype(np.float64),
            "slots": rng.integers(0, 4, num_dialogues).astype(np.float64),
        },
    )


def test_intervals_are_percentiles_of_scores_of_dialogues_drawn_anew() -> None:
    sums = some_sums(12)
    weights_BN = draw_dialogues(12, 200, np.random.default_rng(5))
    recalls, f1s = [], []
    for weights_N in weights_BN.astype(int):
        drawn = [row for row, times in enumerate(weights_N) for _ in range(times)]
        assert len(drawn) == 12
        hits, gold, slots = (
            sum(sums.counts[name][row] for row in drawn) for name in ("matched_10", "gold", "slots")
        )
        recalls.append(hits / gold)
        f1s.append(2 * hits / (gold + slots))
    found = intervals(sums, resamples=200, seed=5)
    assert found["rer_at_10"] == pytest.approx(np.percentile(recalls, [2.5, 97.5]))
    assert found["f1_at_10"] == pytest.approx(np.percentile(f1s, [2.5, 97.5]))
    assert not {"gold", "slots"} & set(found)


def test_the_interval_of_a_mean_is_that_of_its_normal_approximation() -> None:
    rng = np.random.default_rng(1)
    hits_N = (rng.random(400) < 0.4).astype(np.float64)
    sums = DialogueSums(
        dialogues=tuple(map(str, range(400))), counts={"matched_1": hits_N, "gold": np.ones(400)}
    )
    half = 1.96 * hits_N.std() / np.sqrt(400)
    low, high = intervals(sums, resamples=4000)["rer_at_1"]
    assert (low, high) == pytest.approx((hits_N.mean() - half, hits_N.mean() + half), abs=0.005)


def test_intervals_are_the_same_for_the_same_seed() -> None:
    assert intervals(some_sums(9), seed=3) == intervals(some_sums(9), seed=3)
    assert intervals(some_sums(9), seed=3) != intervals(some_sums(9), seed=4)


def test_a_metric_without_a_score_has_no_interval() -> None:
    sums = DialogueSums(
        dialogues=("a", "b"),
        counts={"matched_1": np.zeros(2), "gold": np.ones(2), "slots": np.zeros(2)},
    )
    found = intervals(sums)
    assert found["rer_at_1"] == (0.0, 0.0)
    assert "prr_at_1" not in found


def test_resamples_without_a_denominator_say_nothing() -> None:
    counts = {"matched_1": np.array([1.0, 0.0]), "gold": np.array([2.0, 0.0])}
    sums = DialogueSums(dialogues=("a", "b"), counts=counts)
    assert intervals(sums)["rer_at_1"] == (0.5, 0.5)


def test_no_dialogue_and_no_resample_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 dialogue, got 0"):
        intervals(DialogueSums(dialogues=(), counts={}))
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        intervals(some_sums(3), resamples=0)
