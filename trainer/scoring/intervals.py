"""Bootstrap intervals of scores: dialogues are drawn anew, with replacement.

B resamples, N dialogues, M counts.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentiles).
"""

from __future__ import annotations

import numpy as np

from trainer.common.errors import InputError
from trainer.scoring.metrics import METRICS, Totals, scores
from trainer.scoring.sums import DialogueSums

RESAMPLES = 1000
LEVEL = 0.95
PERCENTS = (50.0 * (1.0 - LEVEL), 50.0 * (1.0 + LEVEL))


def intervals(
    sums: DialogueSums, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each metric that has a score; the same for the same seed.

    Counts have none. A resample in which a metric's denominator is 0 says nothing of it.
    """
    weights_BN = draw_dialogues(len(sums.dialogues), resamples, np.random.default_rng(seed))
    totals = weighted_totals(sums, weights_BN)
    known = scores(sums)
    ends = {
        metric.name: percentiles(metric.of(totals))
        for metric in METRICS
        if not metric.is_count and known.get(metric.name) is not None
    }
    return {name: each for name, each in ends.items() if each is not None}


def draw_dialogues(num_dialogues: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each dialogue is in each resample; float64 [B, N]."""
    if num_dialogues < 1:
        raise InputError("intervals must be of at least 1 dialogue, got 0. Score other data.")
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}.")
    shares_N = np.full(num_dialogues, 1.0 / num_dialogues)
    return rng.multinomial(num_dialogues, shares_N, size=resamples).astype(np.float64)


def weighted_totals(sums: DialogueSums, weights_BN: np.ndarray) -> Totals:
    """The total of each count in each resample; float64 [B]."""
    counts_NM = np.stack(list(sums.counts.values()), axis=1)
    return dict(zip(sums.counts, (weights_BN @ counts_NM).T, strict=True))


def percentiles(values_B: np.ndarray) -> tuple[float, float] | None:
    """The ends of the middle 95 % of the finite values; None if there is none."""
    finite_B = values_B[np.isfinite(values_B)]
    if not len(finite_B):
        return None
    low, high = np.percentile(finite_B, PERCENTS)
    return float(low), float(high)
