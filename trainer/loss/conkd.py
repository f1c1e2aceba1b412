"""Contextualized knowledge distillation: the mixture of the teachers (Eqs. 8-11).

Eqs. 8-11 are cross entropies that share the student term, so a position's whole loss is ONE cross
entropy against

    w = (1 - gamma) * onehot(y) + gamma * (1 - lambda) * P_phi + gamma * lambda * P_psi

with lambda detached: `mix_targets` builds w, `sparse_ce` computes the loss. Further kinds of
teachers take their shares s_k (`distill.shares`) of gamma, and the two divide the rest:

    w = (1 - gamma) * onehot(y)
        + gamma * ((1 - sum_k s_k) * ((1 - lambda) * P_phi + lambda * P_psi) + sum_k s_k * P_k)

Several teachers of a kind (`distill.teachers`) are a mixture with fixed weights. A cross entropy is
linear in its target, so each has a term of its own, with its own rows and its own tail: its kind's
weight times its part of the mixture.

At a temperature T the teachers' rows come at T, the student learns from them at T, and their
weights have the factor T^2 (docs/loss.md). Gate and gold token stay at 1.

A position at which the student predicts its action token has no teacher: w = onehot(y).

B examples, P positions of all examples, R of them without those of action tokens, E kept entries,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from protos.item_mass import check_item_mass
from protos.target_rows import TargetRows, Targets
from trainer.config.distill import DistillConfig
from trainer.data.loader import Positions
from trainer.kinds.asked import AskedTeacher, asked_teachers, names_of
from trainer.kinds.names import DIALOGUE
from trainer.kinds.table import TEACHER_KINDS, share_P
from trainer.kinds.teacher_kind import TeacherKind
from trainer.loss.gate_statistics import GateStatistics, gate_statistics
from trainer.loss.gates import gate_of_rows
from trainer.loss.needed_rows import check_needed
from trainer.loss.soft_targets import SoftTargets, SparseRows, TeacherTerm
from trainer.loss.watched import watch


def hard_targets(positions: Positions) -> SoftTargets:
    """Plain cross entropy with the gold tokens (Eq. 5): gamma = 0; on the CPU."""
    return SoftTargets(labels_P=positions.labels_P, gold_P=positions.weight_P)


def mix_targets(
    positions: Positions,
    targets: Targets,
    config: DistillConfig,
    items: range,
    kinds: Mapping[str, TeacherKind] = TEACHER_KINDS,
) -> SoftTargets:
    """The sparse target distribution of every position (Eqs. 10-11), on the CPU.

    Args:
        positions: gold tokens and 1/T weights, on the CPU.
        targets: the rows of every teacher that is asked, by its name: R of them, or B, at the
            config's temperature; those of examples at which they have no weight may be absent.
        config: gamma, temperature, gate, shares, named teachers and the treatment of dropped mass.
        items: the vocabulary ids of all items.
        kinds: the table of kinds, or those of it that are asked.

    Raises:
        ValueError: if the rows do not match the positions, or one is absent that has weight.
        WireError: if the item mass of a dialogue row does not fit its entries.
    """
    asked = asked_teachers(config, kinds)
    for name, teacher in asked.items():
        _check_rows(name, teacher.kind, positions, targets, items)
    if config.tail != "sampled":
        for name in names_of(DIALOGUE, asked):
            # Rows of a cache or an import were not checked on arrival; a wrong mass moves the gate.
            # A few draws may miss the items or hit them all; their mass is of the whole row.
            check_item_mass(targets[name], items, config.temperature)
    gate_P = gate_of_rows(positions, targets, config)
    # Gradients of tempered distributions are smaller by about T^2 (Hinton et al. 2015, section 2).
    weight_P = config.gamma * config.temperature**2 * positions.weight_P
    gold_P = (1.0 - config.gamma) * positions.weight_P
    if positions.is_action_P is not None:
        # No teacher has a row for an action token: the gold one has all the weight.
        weight_P = weight_P.masked_fill(positions.is_action_P, 0.0)
        gold_P = torch.where(positions.is_action_P, positions.weight_P, gold_P)

    def term(name: str, teacher: AskedTeacher) -> TeacherTerm:
        kind, rows = teacher.kind, targets[name]
        row_P = kind.row_P(positions)
        of_kind_P = share_P(teacher.kind_name, kind, gate_P, config)
        own_P = weight_P * of_kind_P * teacher.weight
        check_needed(name, rows, row_P, own_P)
        support = kind.support(rows.vocab_size, items)
        sparse = sparse_rows(rows, config.tail)
        return TeacherTerm.of(
            rows=sparse,
            row_P=row_P,
            weight_P=own_P,
            support=(support.start, support.stop),
            watched=watch(
                kind=teacher.kind_name,
                weight=teacher.weight,
                offsets_R1=sparse.offsets_R1,
                ids_E=sparse.ids_E,
                probs_E=sparse.probs_E,
                row_P=row_P,
                weight_P=own_P,
                is_item_P=positions.is_item_P,
            ),
        )

    return SoftTargets(
        labels_P=positions.labels_P,
        gold_P=gold_P,
        terms=tuple(term(name, teacher) for name, teacher in asked.items()),
        temperature=config.temperature,
    )


def _check_rows(
    name: str, kind: TeacherKind, positions: Positions, targets: Targets, items: range
) -> None:
    num_rows = len(positions.of_response(positions.labels_P))
    if kind.rows_per == "example":
        num_rows = int(positions.example_P[-1]) + 1
    got = targets[name].num_rows if name in targets else 0
    if got != num_rows:
        raise ValueError(f"{name} rows must be {num_rows}, one per {kind.rows_per}, got {got}.")
    rows = targets[name]
    support, ids_E = kind.support(rows.vocab_size, items), rows.ids_E
    # A whole vocabulary holds every id.
    if len(support) == rows.vocab_size or not ids_E.size:
        return
    if not (support.start <= ids_E.min() and ids_E.max() < support.stop):
        raise ValueError(
            f"{name} rows must hold ids of their support, {support.start}..{support.stop - 1}, "
            f"got {ids_E.min()}..{ids_E.max()}."
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
    positions: Positions,
    targets: Targets,
    config: DistillConfig,
    items: range,
    kinds: Mapping[str, TeacherKind] = TEACHER_KINDS,
) -> PreparedTargets:
    """Mix received rows and count; runs beside the step, in the thread that waits for them."""
    return PreparedTargets(
        soft=mix_targets(positions, targets, config, items, kinds),
        statistics=gate_statistics(positions, targets, config),
    )
