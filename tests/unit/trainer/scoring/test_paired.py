from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from trainer.scoring.intervals import draw_dialogues
from trainer.scoring.paired import paired
from trainer.scoring.sums import DialogueSums

N = 40


def system(rate: float, seed: int, *, num_dialogues: int = N) -> DialogueSums:
    """A system that finds a gold film with this probability; dialogues are easy or hard for all."""
    rng = np.random.default_rng(seed)
    easy_N = np.random.default_rng(99).random(num_dialogues)
    hits_N = (rng.random(num_dialogues) * 0.2 + easy_N * 0.8 < rate).astype(np.float64)
    return DialogueSums(
        dialogues=tuple(map(str, range(num_dialogues))),
        counts={
            "matched_10": hits_N,
            "gold": np.ones(num_dialogues),
            "slots": np.ones(num_dialogues),
        },
    )


def test_paired_is_that_of_a_loop_over_resamples() -> None:
    a, b = [system(0.5, 0), system(0.6, 1)], [system(0.3, 2), system(0.3, 3), system(0.2, 4)]
    rng = np.random.default_rng(7)
    weights_BN = draw_dialogues(N, 100, rng)
    seeds_a = rng.multinomial(2, [1 / 2] * 2, size=100)
    seeds_b = rng.multinomial(3, [1 / 3] * 3, size=100)
    differences, ratios = [], []
    for weights_N, times_a, times_b in zip(weights_BN, seeds_a, seeds_b, strict=True):
        means = []
        for seeds, times in ((a, times_a), (b, times_b)):
            drawn = [each for each, count in zip(seeds, times, strict=True) for _ in range(count)]
            recalls = [
                (it.counts["matched_10"] * weights_N).sum() / (it.counts["gold"] * weights_N).sum()
                for it in drawn
            ]
            means.append(np.mean(recalls))
        differences.append(means[0] - means[1])
        ratios.append(means[0] / means[1])
    found = paired(a, b, resamples=100, seed=7)["rer_at_10"]
    means = [np.mean([it.counts["matched_10"].mean() for it in seeds]) for seeds in (a, b)]
    assert found.difference == pytest.approx(means[0] - means[1])
    assert found.ratio == pytest.approx(means[0] / means[1])
    ends = np.percentile(differences, [2.5, 97.5])
    assert (found.difference_low, found.difference_high) == pytest.approx(ends)
    assert (found.ratio_low, found.ratio_high) == pytest.approx(np.percentile(ratios, [2.5, 97.5]))
    crossed = min(sum(it <= 0 for it in differences), sum(it >= 0 for it in differences))
    assert found.p == pytest.approx(min(1.0, 2 * (1 + crossed) / 101))


def test_pairing_makes_the_interval_narrower_than_that_of_either() -> None:
    found = paired([system(0.5, 0)], [system(0.4, 1)], resamples=1000)["rer_at_10"]
    shuffled = np.random.default_rng(0).permutation(N)
    b = system(0.4, 1)
    alone = dataclasses.replace(b, counts={k: v[shuffled] for k, v in b.counts.items()})
    unpaired = paired([system(0.5, 0)], [alone], resamples=1000)["rer_at_10"]
    assert unpaired.difference == pytest.approx(found.difference)
    width = found.difference_high - found.difference_low
    assert width < 0.8 * (unpaired.difference_high - unpaired.difference_low)


def test_a_system_against_itself_is_no_different() -> None:
    found = paired([system(0.5, 0)], [system(0.5, 0)])["f1_at_10"]
    assert (found.ratio, found.difference, found.p) == (1.0, 0.0, 1.0)
    assert (found.ratio_low, found.ratio_high) == (1.0, 1.0)


def test_chance_is_called_a_difference_in_about_one_case_of_twenty() -> None:
    values = [
        paired(
            [system(0.5, 2 * n, num_dialogues=100)],
            [system(0.5, 2 * n + 1, num_dialogues=100)],
            resamples=300,
        )["rer_at_10"].p
        for n in range(100)
    ]
    assert 0 <= sum(p < 0.05 for p in values) <= 14
    assert 0.3 < float(np.mean(values)) < 0.75


def test_a_ratio_to_zero_is_none_and_the_difference_stays() -> None:
    found = paired([system(0.5, 0)], [system(0.0, 1)])["rer_at_10"]
    assert (found.ratio, found.ratio_low, found.ratio_high) == (None, None, None)
    assert found.difference_low > 0
    assert found.p == pytest.approx(2 / 1001)


def test_a_metric_that_one_seed_has_not_is_left_out() -> None:
    silent = system(0.5, 1)
    silent = dataclasses.replace(silent, counts={**silent.counts, "slots": np.zeros(N)})
    found = paired([system(0.5, 0)], [system(0.5, 2), silent])
    assert "prr_at_10" not in found
    assert {"rer_at_10", "f1_at_10"} <= set(found)


def test_other_dialogues_and_no_seed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same dialogues, got 40 and 39, of which 1 \(39\) are"):
        paired([system(0.5, 0)], [system(0.5, 0, num_dialogues=N - 1)])
    with pytest.raises(ValueError, match="at least 1 seed, got 1 and 0"):
        paired([system(0.5, 0)], [])
