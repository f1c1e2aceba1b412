"""Means of scores over the seeds of an arm, with 95 % intervals over dialogues and seeds.

B resamples, N dialogues, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.scoring.intervals import RESAMPLES, draw_dialogues, percentiles, weighted_totals
from trainer.scoring.metrics import METRICS, scores
from trainer.scoring.sums import DialogueSums


@dataclass(frozen=True, kw_only=True)
class SeedMean:
    """One metric of one arm."""

    mean: float
    low: float | None = None
    """End of the interval; None of a count."""
    high: float | None = None


def seed_means(
    seeds: Sequence[DialogueSums], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, SeedMean]:
    """Each metric that has a score in every seed.

    A resample draws dialogues, the same for all seeds, and seeds; all seeds must have the same
    dialogues, in one order.
    """
    rng = np.random.default_rng(seed)
    weights_BN = draw_dialogues(len(seeds[0].dialogues), resamples, rng)
    shares = [1.0 / len(seeds)] * len(seeds)
    drawn_SB = rng.multinomial(len(seeds), shares, size=resamples).T
    totals = [weighted_totals(each, weights_BN) for each in seeds]
    scored = [scores(each) for each in seeds]
    means: dict[str, SeedMean] = {}
    for metric in METRICS:
        values = [each.get(metric.name) for each in scored]
        known = [value for value in values if value is not None]
        if len(known) < len(seeds):
            continue
        mean = float(np.mean(known))
        if metric.is_count:
            means[metric.name] = SeedMean(mean=mean)
            continue
        scores_SB = np.stack([metric.of(each) for each in totals])
        means_B = np.where(drawn_SB > 0, scores_SB * drawn_SB, 0.0).sum(0) / len(seeds)
        low, high = percentiles(means_B) or (None, None)
        means[metric.name] = SeedMean(mean=mean, low=low, high=high)
    return means
