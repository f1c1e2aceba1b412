"""What the gate did: sums over a batch of lambda, item mass, entropy and kept mass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protos.target_rows import TargetRows, Targets, no_rows
from trainer.config.distill import DistillConfig
from trainer.data.loader import Positions
from trainer.kinds.names import DIALOGUE, RECOMMENDATION
from trainer.loss.gates import gate_of_rows

HISTOGRAM_BINS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class GateStatistics:
    """Sums over one batch, so that ranks and steps can be added up; 0 of a teacher not asked.

    Attributes:
        gate: sum of lambda_t at item steps and at word steps, [2].
        num_recommended: positions at which lambda_t is 1.
        dialogue_entropy: sum over positions of the dialogue rows', in nats, the tail as one class:
            a lower bound of the whole row's.
        recommendation_entropy: mean of the recommendation rows', likewise, times positions.
        item_mass: sum of the gate's input at item steps and at word steps, [2].
        count: number of item steps and word steps, [2].
        histogram: counts of item mass over [0, 1] in 20 bins, [2, 20].
        kept_mass: sum over positions of the dialogue teacher's kept mass.
        recommendation_kept_mass: mean of the recommendation rows', times positions.
    """

    gate: np.ndarray
    num_recommended: int
    dialogue_entropy: float
    recommendation_entropy: float
    item_mass: np.ndarray
    count: np.ndarray
    histogram: np.ndarray
    kept_mass: float
    recommendation_kept_mass: float


def gate_statistics(
    positions: Positions, targets: Targets, config: DistillConfig
) -> GateStatistics:
    """Gate and item mass at item steps and at word steps (paper section 3.4: .653 and .023)."""
    masks = [positions.is_item_P.numpy(), ~positions.is_item_P.numpy()]
    gate_P = gate_of_rows(positions, targets, config).numpy()
    dialogue, recommendation = (
        targets.get(kind, no_rows(0)) for kind in (DIALOGUE, RECOMMENDATION)
    )
    num_positions, mass_R = len(gate_P), dialogue.item_mass_R
    masses = [mass_R[mask] if len(mass_R) else mass_R for mask in masks]
    # Rounding may leave a little more than 1, which counts as 1.
    histograms = [
        np.histogram(it.clip(0.0, 1.0), bins=HISTOGRAM_BINS, range=(0.0, 1.0))[0] for it in masses
    ]
    return GateStatistics(
        gate=np.array([float(gate_P[mask].sum()) for mask in masks]),
        num_recommended=int((gate_P == 1.0).sum()),
        dialogue_entropy=float(entropy(dialogue).sum()),
        recommendation_entropy=_mean(entropy(recommendation)) * num_positions,
        item_mass=np.array([float(mass.sum()) for mass in masses]),
        count=np.array([int(mask.sum()) for mask in masks]),
        histogram=np.stack(histograms),
        kept_mass=float((1.0 - dialogue.tail_R).sum()),
        recommendation_kept_mass=_mean(1.0 - recommendation.tail_R) * num_positions,
    )


def entropy(rows: TargetRows) -> np.ndarray:
    """Entropy of every row in nats, its tail taken as one class; float64 [R]."""
    row_E = np.repeat(np.arange(rows.num_rows), rows.counts_R)
    log_probs_E = rows.log_probs_E.astype(np.float64)
    kept_R = np.bincount(row_E, weights=-np.exp(log_probs_E) * log_probs_E, minlength=rows.num_rows)
    tail_R = rows.tail_R.astype(np.float64)
    return kept_R - tail_R * np.log(tail_R, out=np.zeros_like(tail_R), where=tail_R > 0)


def _mean(values_R: np.ndarray) -> float:
    return float(values_R.mean()) if len(values_R) else 0.0
