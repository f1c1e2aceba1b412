from __future__ import annotations

import numpy as np
import pytest

from tests.support.ablation_cells import NUM_DIALOGUES, drawn_sums
from trainer.ablation.seed_means import seed_means
from trainer.scoring.metrics import scores
from trainer.scoring.sums import DialogueSums


def f1_at_10(matched: float, gold: float, slots: float) -> float:
    return 2.0 * matched / (gold + slots)


def test_a_mean_and_its_interval_are_those_of_loops() -> None:
    seeds, resamples = [drawn_sums(seed) for seed in (0, 1, 2)], 200
    rng = np.random.default_rng(5)
    drawn_BN = rng.multinomial(NUM_DIALOGUES, [1 / NUM_DIALOGUES] * NUM_DIALOGUES, resamples)
    of_seeds_BS = rng.multinomial(3, [1 / 3] * 3, resamples)
    means = []
    for b in range(resamples):
        values = []
        for s, sums in enumerate(seeds):
            totals = {"matched_10": 0.0, "gold": 0.0, "slots": 0.0}
            for name in totals:
                for n in range(NUM_DIALOGUES):
                    totals[name] += drawn_BN[b][n] * sums.counts[name][n]
            value = f1_at_10(totals["matched_10"], totals["gold"], totals["slots"])
            values += [value] * int(of_seeds_BS[b][s])
        means.append(sum(values) / 3)
    found = seed_means(seeds, resamples, seed=5)["f1_at_10"]
    each = [scores(sums)["f1_at_10"] for sums in seeds]
    assert found.mean == pytest.approx(sum(it for it in each if it is not None) / 3)
    low, high = np.percentile(means, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high))


def test_a_count_has_no_interval() -> None:
    found = seed_means([drawn_sums(0), drawn_sums(1)])["gold"]
    assert (found.low, found.high) == (None, None)


def test_a_score_that_one_seed_has_not_is_left_out() -> None:
    silent = drawn_sums(1, names_films=False)
    found = seed_means([drawn_sums(0), silent])
    assert "prr_at_10" not in found
    assert found["rer_at_10"].mean == pytest.approx((scores(drawn_sums(0))["rer_at_10"] or 0) / 2)


def test_dialogues_that_are_alike_leave_no_noise_but_that_of_seeds() -> None:
    counts = {"gold": np.ones(5), "slots": np.ones(5), "matched_10": np.ones(5)}
    same = DialogueSums(dialogues=tuple("abcde"), counts=counts)
    found = seed_means([same, same])["f1_at_10"]
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)
