"""A paired test between two systems on the same dialogues, each with one or several seeds.

B resamples, N dialogues, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.common.errors import InputError
from trainer.scoring.intervals import RESAMPLES, draw_dialogues, percentiles, weighted_totals
from trainer.scoring.metrics import METRICS, Metric, Totals, as_number, ratio
from trainer.scoring.sums import DialogueSums


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One metric of system a against system b: means over seeds, with 95 % intervals."""

    ratio: float | None
    """a / b; None where b is 0."""
    ratio_low: float | None
    ratio_high: float | None
    difference: float
    """a - b."""
    difference_low: float
    difference_high: float
    p: float
    """Two-sided: how often resamples cross a difference of 0, twice; at least 2 / (B + 1)."""


def paired(
    a: Sequence[DialogueSums],
    b: Sequence[DialogueSums],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Paired]:
    """Each metric that has a score in every seed of both systems.

    A resample draws dialogues, the same for all seeds of both systems, and seeds of each system.
    The score of a system is the mean of the scores of its seeds, as tables have it.

    Raises:
        InputError: if a system has no seed, or the dialogues are not the same in all of them.
    """
    dialogues = _check_dialogues(a, b)
    rng = np.random.default_rng(seed)
    weights_BN = draw_dialogues(len(dialogues), resamples, rng)
    seeds_a, seeds_b = (_draw_seeds(len(it), resamples, rng) for it in (a, b))
    totals_a, totals_b = ([weighted_totals(it, weights_BN) for it in each] for each in (a, b))
    results = {}
    for metric in METRICS:
        if metric.is_count or not _has_scores(metric, [*a, *b]):
            continue
        means_a_B = _resampled_means(metric, totals_a, seeds_a)
        means_b_B = _resampled_means(metric, totals_b, seeds_b)
        found = _compare(_mean(metric, a), _mean(metric, b), means_a_B, means_b_B)
        if found is not None:
            results[metric.name] = found
    return results


def _check_dialogues(a: Sequence[DialogueSums], b: Sequence[DialogueSums]) -> tuple[str, ...]:
    if not (a and b):
        raise InputError(
            f"each system must have at least 1 seed, got {len(a)} and {len(b)}. Score both."
        )
    first = a[0].dialogues
    for other in (*a[1:], *b):
        if other.dialogues != first:
            unlike = sorted(set(other.dialogues) ^ set(first))
            raise InputError(
                "systems that are compared must have the same dialogues, got "
                f"{len(first)} and {len(other.dialogues)}, of which {len(unlike)} "
                f"({', '.join(unlike[:3]) or 'none, but in another order'}) are in one alone. "
                "Score both on the same examples."
            )
    return first


def _draw_seeds(num_seeds: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each seed is in each resample; float64 [S, B]."""
    return rng.multinomial(num_seeds, [1.0 / num_seeds] * num_seeds, size=resamples).T.astype(
        np.float64
    )


def _has_scores(metric: Metric, systems: Sequence[DialogueSums]) -> bool:
    return all(metric.is_known(it.counts) and np.isfinite(_score(metric, it)) for it in systems)


def _score(metric: Metric, sums: DialogueSums) -> float:
    totals = {name: sums.counts[name].sum(keepdims=True) for name in metric.counts}
    return float(metric.of(totals)[0])


def _mean(metric: Metric, seeds: Sequence[DialogueSums]) -> float:
    return float(np.mean([_score(metric, it) for it in seeds]))


def _resampled_means(metric: Metric, totals: Sequence[Totals], seeds_SB: np.ndarray) -> np.ndarray:
    """Means over the seeds drawn; NaN where one of these has no score; float64 [B]."""
    scores_SB = np.stack([metric.of(it) for it in totals])
    summed_B = np.where(seeds_SB > 0, scores_SB * seeds_SB, 0.0).sum(0)
    return summed_B / len(totals)


def _compare(
    mean_a: float, mean_b: float, means_a_B: np.ndarray, means_b_B: np.ndarray
) -> Paired | None:
    """None if no resample has a score of both."""
    differences_B = means_a_B - means_b_B
    ends = percentiles(differences_B)
    if ends is None:
        return None
    num_finite = int(np.isfinite(differences_B).sum())
    crossed = int(min((differences_B <= 0).sum(), (differences_B >= 0).sum()))
    quotient = as_number(float(ratio(np.array(mean_a), np.array(mean_b))))
    quotients = percentiles(ratio(means_a_B, means_b_B)) if quotient is not None else None
    return Paired(
        ratio=quotient,
        ratio_low=quotients[0] if quotients else None,
        ratio_high=quotients[1] if quotients else None,
        difference=mean_a - mean_b,
        difference_low=ends[0],
        difference_high=ends[1],
        p=min(1.0, 2.0 * (1 + crossed) / (num_finite + 1)),
    )
