"""Contextualized knowledge distillation: the gates and the mixture of two teachers (Eqs. 6-11).

Eqs. 8-11 are cross entropies that share the student term, so a position's whole loss is ONE cross
entropy against

    w = (1 - gamma) * onehot(y) + gamma * (1 - lambda) * P_phi + gamma * lambda * P_psi

with lambda detached: `mix_targets` builds w, `sparse_ce` computes the loss.

B examples, P response positions of all examples, E kept entries, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from protos.codec import TargetRows
from protos.target_rows import TeacherTargets
from trainer.config.distill import DistillConfig
from trainer.data.loader import Positions
from trainer.loss.gate_statistics import GateStatistics, gate_statistics
from trainer.loss.gates import gate_of_rows
from trainer.loss.soft_targets import SoftTargets, SparseRows, TeacherTerm


def hard_targets(positions: Positions) -> SoftTargets:
    """Plain cross entropy with the gold tokens (Eq. 5): gamma = 0; on the CPU."""
    return SoftTargets(labels_P=positions.labels_P, gold_P=positions.weight_P)


def mix_targets(
    positions: Positions,
    teachers: TeacherTargets,
    config: DistillConfig,
    items: range,
) -> SoftTargets:
    """The sparse target distribution of every position (Eqs. 10-11), on the CPU.

    Args:
        positions: gold tokens and 1/T weights, on the CPU.
        teachers: both teachers' rows; row counts must be P and B.
        config: gamma, gate and the treatment of dropped mass.
        items: the vocabulary ids of all items, on which P_psi lives.

    Raises:
        ValueError: if the rows do not match the positions.
        WireError: if the item mass of a dialogue row does not fit its entries.
    """
    _check_rows(positions, teachers, config, items)
    gate_P = gate_of_rows(positions, teachers, config)
    weight_P = config.gamma * positions.weight_P
    terms = {
        "dialogue": lambda: TeacherTerm.of(
            rows=sparse_rows(teachers.dialogue, config.tail),
            row_P=torch.arange(len(positions.labels_P)),
            weight_P=weight_P * (1.0 - gate_P),
            support=(0, teachers.dialogue.vocab_size),
        ),
        "recommendation": lambda: TeacherTerm.of(
            rows=sparse_rows(teachers.recommendation, config.tail),
            row_P=positions.example_P,
            weight_P=weight_P * gate_P,
            support=(items.start, items.stop),
        ),
    }
    return SoftTargets(
        labels_P=positions.labels_P,
        gold_P=(1.0 - config.gamma) * positions.weight_P,
        terms=tuple(terms[kind]() for kind in config.kinds),
    )


def _check_rows(
    positions: Positions, teachers: TeacherTargets, config: DistillConfig, items: range
) -> None:
    num_positions, num_examples = len(positions.labels_P), int(positions.example_P[-1]) + 1
    if "dialogue" in config.kinds and teachers.dialogue.num_rows != num_positions:
        raise ValueError(
            f"dialogue rows must be {num_positions}, one per position, "
            f"got {teachers.dialogue.num_rows}."
        )
    if "recommendation" in config.kinds and teachers.recommendation.num_rows != num_examples:
        raise ValueError(
            f"recommendation rows must be {num_examples}, one per example, "
            f"got {teachers.recommendation.num_rows}."
        )
    ids_E = teachers.recommendation.ids_E
    if ids_E.size and not (items.start <= ids_E.min() and ids_E.max() < items.stop):
        raise ValueError(
            f"recommendation rows must hold ids of items, {items.start}..{items.stop - 1}, got "
            f"{ids_E.min()}..{ids_E.max()}."
        )


def sparse_rows(rows: TargetRows, tail: str) -> SparseRows:
    """Received rows as probabilities whose sum with the tail is exactly 1.

    The kept entries are scaled to 1 - tail: the tail is exact on the wire, the entries may be
    quantised. `tail` is a treatment of docs/loss.md: "bucket" keeps the tail, "drop" loses it,
    "renormalise" spreads it over the kept entries; "sampled" rows come without one.
    """
    offsets_R1 = np.concatenate([[0], np.cumsum(rows.counts_R)]).astype(np.int64)
    row_E = np.repeat(np.arange(rows.num_rows), rows.counts_R)
    probs_E = np.exp(rows.log_probs_E.astype(np.float64))
    kept_R = np.bincount(row_E, weights=probs_E, minlength=rows.num_rows)
    wanted_R = np.ones(rows.num_rows) if tail == "renormalise" else 1.0 - rows.tail_R
    scale_R = np.divide(wanted_R, kept_R, out=np.zeros(rows.num_rows), where=kept_R > 0)
    tail_R = rows.tail_R if tail == "bucket" else np.zeros(rows.num_rows, np.float32)
    return SparseRows(
        offsets_R1=torch.from_numpy(offsets_R1),
        ids_E=torch.from_numpy(rows.ids_E.astype(np.int64)),
        probs_E=torch.from_numpy((probs_E * scale_R[row_E]).astype(np.float32)),
        tail_R=torch.from_numpy(tail_R.astype(np.float32)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedTargets:
    """What a step needs of one micro-batch's targets; statistics are None without teachers."""

    soft: SoftTargets
    statistics: GateStatistics | None


def prepare_targets(
    positions: Positions, teachers: TeacherTargets, config: DistillConfig, items: range
) -> PreparedTargets:
    """Mix received rows and count; runs beside the step, in the thread that waits for them."""
    return PreparedTargets(
        soft=mix_targets(positions, teachers, config, items),
        statistics=gate_statistics(positions, teachers, config),
    )
