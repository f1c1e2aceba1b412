from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

from protos.codec import TargetRows
from protos.target_rows import ITEM_MASS, Targets, WireError, no_rows
from trainer.config.distill import DistillConfig
from trainer.data.loader import Positions
from trainer.kinds.table import asked_kinds
from trainer.loss import conkd, gate_statistics, gates
from trainer.loss.soft_targets import SoftTargets
from trainer.loss.sparse_ce import sparse_cross_entropy_sum

V, ITEMS, D = 12, range(7, 11), 5
LENGTHS = [2, 3]
P = sum(LENGTHS)
CPU = torch.device("cpu")


def truncate(dense_RV: np.ndarray, keep: int, support: range) -> TargetRows:
    ids, log_probs, tails = [], [], []
    for row in dense_RV:
        inside = np.array(support)
        kept = np.sort(inside[np.argsort(-row[inside], kind="stable")[:keep]])
        ids.append(kept)
        log_probs.append(np.log(row[kept]))
        tails.append(0.0 if len(kept) == len(inside) else 1.0 - row[kept].sum())
    return TargetRows(
        counts_R=np.array([len(i) for i in ids], np.int32),
        ids_E=np.concatenate(ids).astype(np.int32),
        log_probs_E=np.concatenate(log_probs).astype(np.float32),
        tail_R=np.array(tails, np.float32),
        masses={ITEM_MASS: dense_RV[:, ITEMS.start : ITEMS.stop].sum(-1).astype(np.float32)},
        vocab_size=V,
    )


@dataclasses.dataclass(frozen=True)
class Case:
    positions: Positions
    phi_PV: np.ndarray
    psi_BV: np.ndarray
    hidden_PD: Tensor
    weight_VD: Tensor

    def targets(self, keep: int) -> Targets:
        return {
            "dialogue": truncate(self.phi_PV, keep, range(V)),
            "recommendation": truncate(self.psi_BV, keep, ITEMS),
        }

    def loss(self, config: DistillConfig, keep: int = V) -> float:
        mixed = conkd.mix_targets(self.positions, self.targets(keep), config, ITEMS)
        return float(self.loss_of(mixed))

    def loss_of(self, targets: SoftTargets) -> Tensor:
        return sparse_cross_entropy_sum(self.hidden_PD, self.weight_VD, targets)[0]


@pytest.fixture
def case() -> Case:
    rng = np.random.default_rng(0)
    labels = torch.tensor([1, 8, 0, 9, 2])
    example_P = np.repeat([0, 1], LENGTHS)
    psi_BV = np.zeros((2, V))
    psi_BV[:, ITEMS.start : ITEMS.stop] = rng.dirichlet(np.ones(len(ITEMS)), size=2)
    return Case(
        positions=Positions(
            labels_P=labels,
            example_P=torch.from_numpy(example_P),
            weight_P=torch.tensor([1 / LENGTHS[e] for e in example_P], dtype=torch.float32),
            is_item_P=(labels >= ITEMS.start) & (labels < ITEMS.stop),
        ),
        phi_PV=rng.dirichlet(np.ones(V) * 0.5, size=P),
        psi_BV=psi_BV,
        hidden_PD=torch.from_numpy(rng.normal(size=(P, D))),
        weight_VD=torch.from_numpy(rng.normal(size=(V, D))),
    )


def paper_loss(case: Case, config: DistillConfig) -> float:
    """Eqs. 8-11 as printed, term by term and dense, in float64; 1/T per example, summed."""
    log_q_PV = torch.log_softmax(case.hidden_PD @ case.weight_VD.T, -1).numpy()
    total = 0.0
    for p in range(P):
        example = int(case.positions.example_P[p])
        mass = case.phi_PV[p, ITEMS.start : ITEMS.stop].sum()
        gates = {"hard": float(mass >= config.eta), "soft": mass, "fixed": config.fixed_lambda}
        lam = gates[config.gate]
        nll = -log_q_PV[p, int(case.positions.labels_P[p])]
        dial_kd = -(case.phi_PV[p] * log_q_PV[p]).sum()
        rec_kd = -(case.psi_BV[example] * log_q_PV[p]).sum()
        dial = (1 - config.gamma) * nll + config.gamma * dial_kd
        rec = (1 - config.gamma) * nll + config.gamma * rec_kd
        total += ((1 - lam) * dial + lam * rec) / LENGTHS[example]
    return total


@pytest.mark.parametrize("gate", ["hard", "soft"])
@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
def test_conkd_loss_with_whole_rows_is_the_papers(case: Case, gate: str, gamma: float) -> None:
    config = DistillConfig(gate="hard" if gate == "hard" else "soft", gamma=gamma, eta=0.3)
    assert case.loss(config) == pytest.approx(paper_loss(case, config), rel=1e-6)


@pytest.mark.parametrize("fixed_lambda", [0.0, 0.5, 1.0])
def test_conkd_loss_with_a_fixed_lambda_is_the_papers_ablation(
    case: Case, fixed_lambda: float
) -> None:
    config = DistillConfig(gate="fixed", fixed_lambda=fixed_lambda, gamma=0.4)
    assert case.loss(config) == pytest.approx(paper_loss(case, config), rel=1e-6)


@pytest.mark.parametrize(("fixed_lambda", "unasked"), [(0.0, "recommendation"), (1.0, "dialogue")])
def test_conkd_with_one_teacher_needs_no_row_of_the_other(
    case: Case, fixed_lambda: float, unasked: str
) -> None:
    config = DistillConfig(gate="fixed", fixed_lambda=fixed_lambda, gamma=0.4)
    (asked,) = asked_kinds(config)
    assert asked != unasked
    targets = {asked: case.targets(keep=V)[asked]}
    prepared = conkd.prepare_targets(case.positions, targets, config, ITEMS)
    assert float(case.loss_of(prepared.soft)) == pytest.approx(paper_loss(case, config), rel=1e-6)
    assert prepared.statistics is not None
    assert prepared.statistics.num_recommended == P * fixed_lambda
    for wrong in ({}, {asked: no_rows(V)}):
        with pytest.raises(ValueError, match=f"{asked} rows must be"):
            conkd.mix_targets(case.positions, wrong, config, ITEMS)


def test_mixture_of_rows_whose_item_mass_does_not_fit_their_entries_is_refused(case: Case) -> None:
    targets = case.targets(keep=V)
    mass_R = targets["dialogue"].item_mass_R.copy()
    mass_R[3] = 1.0 - mass_R[3] / 2
    wrong = {
        **targets,
        "dialogue": dataclasses.replace(targets["dialogue"], masses={ITEM_MASS: mass_R}),
    }
    with pytest.raises(WireError, match=r"item mass of a row must be in \["):
        conkd.mix_targets(case.positions, wrong, DistillConfig(), ITEMS)


def test_every_gate_of_the_config_is_in_the_table() -> None:
    assert list(gates.GATES) == list(get_args(get_type_hints(DistillConfig)["gate"]))


def test_hard_gate_at_eta_speaks_for_the_recommender() -> None:
    gate_P = gates.hard_gate(torch.tensor([0.29, 0.3, 0.31]), eta=0.3)
    assert gate_P.tolist() == [0.0, 1.0, 1.0]


def test_gate_lets_no_gradient_through() -> None:
    mass = torch.tensor([0.2, 0.9], requires_grad=True)
    assert not gates.gate(mass, DistillConfig(gate="soft")).requires_grad


def test_conkd_with_one_hot_teachers_is_plain_nll(case: Case) -> None:
    phi = np.full((P, V), 1e-12)
    phi[np.arange(P), case.positions.labels_P.numpy()] = 1.0
    config = DistillConfig(gate="hard", eta=1.0, gamma=0.7)
    one_hot = dataclasses.replace(case, phi_PV=phi * 0.999999)
    nll = case.loss_of(conkd.hard_targets(case.positions))
    assert one_hot.loss(config) == pytest.approx(float(nll), rel=1e-4)


def test_recommender_is_not_heard_where_the_gate_is_closed(case: Case) -> None:
    config = DistillConfig(gate="hard", eta=1.0, gamma=0.5)
    other = dataclasses.replace(case, psi_BV=case.psi_BV[::-1].copy())
    assert case.loss(config) == other.loss(config)


def test_tail_treatments_differ_and_agree_when_nothing_is_dropped(case: Case) -> None:
    configs = [DistillConfig(gate="soft", tail=t) for t in ("bucket", "drop", "renormalise")]
    whole = [case.loss(config) for config in configs]
    assert whole == pytest.approx([whole[0]] * 3, rel=1e-6)
    assert len({round(case.loss(config, keep=2), 6) for config in configs}) == 3


def treated_loss(
    case: Case, config: DistillConfig, keep: int, hidden_PD: Tensor, weight_VD: Tensor
) -> Tensor:
    """The loss on truncated rows, position by position over a whole softmax; docs/loss.md."""
    log_q_PV = torch.log_softmax(hidden_PD @ weight_VD.T, -1)
    targets = case.targets(keep)
    total = torch.zeros((), dtype=torch.float64)
    for p in range(P):
        example = int(case.positions.example_P[p])
        lam = float(targets["dialogue"].item_mass_R[p])
        nll = -log_q_PV[p, int(case.positions.labels_P[p])]
        terms = [
            (1 - lam, case.phi_PV[p], range(V)),
            (lam, case.psi_BV[example], ITEMS),
        ]
        kd = torch.zeros((), dtype=torch.float64)
        for weight, probs_V, support in terms:
            kept = sorted(support, key=lambda j, row=probs_V: -row[j])[:keep]
            rest = [j for j in support if j not in kept]
            mass = sum(probs_V[j] for j in kept)
            scale = 1 / mass if config.tail == "renormalise" else 1.0
            kd = kd - weight * sum(scale * probs_V[j] * log_q_PV[p, j] for j in kept)
            if config.tail == "bucket":
                kd = kd - weight * (1 - mass) * torch.logsumexp(log_q_PV[p, rest], 0)
        total = total + ((1 - config.gamma) * nll + config.gamma * kd) / LENGTHS[example]
    return total


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("tail", ["bucket", "drop", "renormalise"])
def test_loss_and_gradient_on_truncated_rows_equal_the_treatment_by_hand(
    case: Case, tail: Literal["bucket", "drop", "renormalise"], keep: int
) -> None:
    config = DistillConfig(gate="soft", gamma=0.6, tail=tail)
    leaves = [t.clone().requires_grad_() for t in (case.hidden_PD, case.weight_VD)]
    mixed = conkd.mix_targets(case.positions, case.targets(keep), config, ITEMS)
    loss = sparse_cross_entropy_sum(leaves[0], leaves[1], mixed)[0]
    twins = [t.clone().requires_grad_() for t in (case.hidden_PD, case.weight_VD)]
    expected = treated_loss(case, config, keep, twins[0], twins[1])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for got, want in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, twins), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_mix_targets_with_a_recommendation_outside_the_items_is_refused(case: Case) -> None:
    targets = case.targets(keep=2)
    words = truncate(case.phi_PV[:2], 2, range(V))
    with pytest.raises(ValueError, match=r"must hold ids of their support, 7\.\.10, got"):
        conkd.mix_targets(
            case.positions,
            {**targets, "recommendation": words},
            DistillConfig(),
            ITEMS,
        )


def test_sparse_rows_of_quantised_entries_sum_to_one_with_the_tail(case: Case) -> None:
    rows = case.targets(keep=3)["dialogue"]
    noisy = dataclasses.replace(rows, log_probs_E=rows.log_probs_E - 0.02)
    sparse = conkd.sparse_rows(noisy, "bucket")
    kept_R = sparse.probs_E.reshape(P, 3).sum(-1)
    torch.testing.assert_close(kept_R + sparse.tail_R, torch.ones(P))


def test_mix_targets_of_drawn_rows_takes_the_gate_from_the_whole_row(case: Case) -> None:
    rows = case.targets(keep=1)["dialogue"]
    one_draw = dataclasses.replace(
        rows,
        log_probs_E=np.zeros_like(rows.log_probs_E),
        tail_R=np.zeros_like(rows.tail_R),
        masses={ITEM_MASS: np.full_like(rows.item_mass_R, 0.5)},
    )
    targets = {**case.targets(keep=1), "dialogue": one_draw}
    config = DistillConfig(gate="soft", gamma=0.6, tail="sampled")
    mixed = conkd.mix_targets(case.positions, targets, config, ITEMS)
    dialogue = mixed.terms[0]
    torch.testing.assert_close(
        dialogue.weight_P, 0.3 * case.positions.weight_P.to(dialogue.weight_P)
    )
    assert dialogue.rows.probs_E.tolist() == [1.0] * P
    assert not dialogue.rows.tail_R.any()


def test_mix_targets_with_a_missing_row_is_refused(case: Case) -> None:
    targets = case.targets(keep=3)
    short = truncate(case.phi_PV[:-1], 3, range(V))
    with pytest.raises(ValueError, match="must be 5, one per position, got 4"):
        conkd.mix_targets(
            case.positions,
            {**targets, "dialogue": short},
            DistillConfig(),
            ITEMS,
        )


def test_gate_statistics_split_item_and_word_steps(case: Case) -> None:
    targets = case.targets(keep=V)
    mass = np.array([0.1, 0.8, 0.2, 0.6, 0.3], np.float32)
    dialogue = dataclasses.replace(targets["dialogue"], masses={ITEM_MASS: mass})
    statistics = gate_statistics.gate_statistics(
        case.positions, {**targets, "dialogue": dialogue}, DistillConfig(eta=0.6)
    )
    assert [statistics.mass_item, statistics.mass_word] == pytest.approx([1.4, 0.6])
    histograms = (statistics.histogram_item, statistics.histogram_word)
    assert [counts.sum() for counts in histograms] == [2, 3]
    assert statistics.kept_mass == pytest.approx(5.0)
    assert (statistics.gate_item, statistics.gate_word) == (2.0, 0.0)
    assert statistics.num_recommended == 2


def test_item_mass_that_rounding_leaves_above_one_is_counted(case: Case) -> None:
    targets = case.targets(keep=V)
    mass = np.array([1.0005, 0.8, 0.2, 0.6, 0.3], np.float32)
    dialogue = dataclasses.replace(targets["dialogue"], masses={ITEM_MASS: mass})
    statistics = gate_statistics.gate_statistics(
        case.positions, {**targets, "dialogue": dialogue}, DistillConfig()
    )
    assert statistics.histogram_item.sum() + statistics.histogram_word.sum() == 5


@pytest.mark.parametrize("keep", [1, 3, V])
def test_entropy_of_a_row_takes_its_tail_as_one_class(case: Case, keep: int) -> None:
    rows = case.targets(keep)["dialogue"]
    for got, probs_V in zip(gate_statistics.entropy(rows), case.phi_PV, strict=True):
        kept = sorted(probs_V, reverse=True)[:keep]
        classes = [*kept, 1.0 - sum(kept)] if keep < V else kept
        assert got == pytest.approx(-sum(p * math.log(p) for p in classes if p > 0), rel=1e-5)
