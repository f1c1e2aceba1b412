"""Sums over a batch of lambda, item mass, entropy and kept mass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from protos.target_rows import TargetRows, Targets
from trainer.config.distill import DistillConfig
from trainer.data.loader import Positions
from trainer.kinds.names import DIALOGUE, RECOMMENDATION
from trainer.loss.gates import gate_of_rows, mixed_item_mass

HISTOGRAM_BINS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class GateStatistics:
    """Sums over one batch, by the names that trainer/telemetry/step_metrics.py forms metrics of.

    They are 0 of a kind that is not used, and of one with several teachers the mean over these, by
    their weights in the mixture. Item steps are positions whose gold token is an item.

    Attributes:
        gate_item, gate_word: sum of lambda_t at item steps and at word steps.
        num_recommended: positions at which lambda_t is 1.
        dialogue_entropy: sum over positions of the dialogue rows', in nats, the tail as one class:
            a lower bound of the whole row's, and of a mixture's.
        recommendation_rows: recommendation rows that were asked for, of each of these teachers.
        recommendation_entropy: sum over these rows, likewise.
        mass_item, mass_word: sum of the gate's input at item steps and at word steps.
        histogram_item, histogram_word: counts of that input over [0, 1], [HISTOGRAM_BINS].
        kept_mass: sum over positions of the dialogue teacher's kept mass.
        recommendation_kept_mass: sum over the recommendation rows that were asked for.
    """

    gate_item: float
    gate_word: float
    num_recommended: int
    dialogue_entropy: float
    recommendation_rows: int
    recommendation_entropy: float
    mass_item: float
    mass_word: float
    histogram_item: np.ndarray
    histogram_word: np.ndarray
    kept_mass: float
    recommendation_kept_mass: float


def gate_statistics(
    positions: Positions, targets: Targets, config: DistillConfig
) -> GateStatistics:
    """Gate and item mass at item steps and at word steps (paper section 3.4: .653 and .023)."""
    # Of the response's own tokens: no teacher has to do with an action token.
    is_item_R = positions.of_response(positions.is_item_P).numpy()
    gate_R = positions.of_response(gate_of_rows(positions, targets, config)).numpy()
    if not targets:
        # A step at which gamma has come to 0: nobody teaches.
        gate_R = np.zeros_like(gate_R)
    mass_R = mixed_item_mass(targets, config)

    def mean_of(kind: str, value: Callable[[TargetRows], np.ndarray]) -> float:
        """Mean over a kind's teachers of the sum of a value over their rows."""
        weights = config.mixture(kind)
        return sum(
            weight * float(value(targets[name]).sum())
            for name, weight in weights.items()
            if name in targets
        )

    # There is a row for each, or none.
    item_mass, word_mass = (
        mass_R[mask] if len(mass_R) else mass_R for mask in (is_item_R, ~is_item_R)
    )
    return GateStatistics(
        gate_item=float(gate_R[is_item_R].sum()),
        gate_word=float(gate_R[~is_item_R].sum()),
        num_recommended=int((gate_R == 1.0).sum()),
        dialogue_entropy=mean_of(DIALOGUE, entropy),
        # All teachers of the kind have the same.
        recommendation_rows=round(mean_of(RECOMMENDATION, _is_there)),
        recommendation_entropy=mean_of(RECOMMENDATION, entropy),
        mass_item=float(item_mass.sum()),
        mass_word=float(word_mass.sum()),
        histogram_item=_histogram(item_mass),
        histogram_word=_histogram(word_mass),
        kept_mass=mean_of(DIALOGUE, _kept_mass),
        recommendation_kept_mass=mean_of(RECOMMENDATION, _kept_mass),
    )


def _is_there(rows: TargetRows) -> np.ndarray:
    return ~rows.is_absent_R


def _kept_mass(rows: TargetRows) -> np.ndarray:
    # An absent row's tail of 0 must not pass for mass that was kept.
    return (1.0 - rows.tail_R)[_is_there(rows)]


def _histogram(mass_R: np.ndarray) -> np.ndarray:
    # Rounding may leave a little more than 1, which counts as 1.
    return np.histogram(mass_R.clip(0.0, 1.0), bins=HISTOGRAM_BINS, range=(0.0, 1.0))[0]


def entropy(rows: TargetRows) -> np.ndarray:
    """Entropy of every row in nats, its tail taken as one class; float64 [R]."""
    row_E = np.repeat(np.arange(rows.num_rows), rows.counts_R)
    log_probs_E = rows.log_probs_E.astype(np.float64)
    kept_R = np.bincount(row_E, weights=-np.exp(log_probs_E) * log_probs_E, minlength=rows.num_rows)
    tail_R = rows.tail_R.astype(np.float64)
    return kept_R - tail_R * np.log(tail_R, out=np.zeros_like(tail_R), where=tail_R > 0)
