"""Several teachers of a kind: the loss of their mixture, against slow twins in float64.

B examples, P response positions, V vocabulary, D hidden, N draws of a row.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from protos.target_rows import TargetRows, Targets
from protos.teacher_pb2 import Compression
from teacher_server.scoring.compress import Support, compress
from trainer.config.distill import DistillConfig
from trainer.config.named_teachers import NamedTeacher
from trainer.data.loader import Positions
from trainer.kinds.table import TEACHER_KINDS
from trainer.loss import conkd
from trainer.loss.gate_statistics import entropy, gate_statistics
from trainer.loss.gates import gate_of_rows
from trainer.loss.needed_rows import needed_examples
from trainer.loss.sparse_ce import sparse_cross_entropy_sum

V, ITEMS, D, N = 40, range(30, 37), 6, 8
LENGTHS = [3, 5, 1, 2]
P, B = sum(LENGTHS), len(LENGTHS)
SUPPORTS = {
    "dialogue": Support(vocab_size=V, first_id=0, first_item_column=30, num_items=7),
    "recommendation": Support(vocab_size=V, first_id=30, first_item_column=0, num_items=7),
}
PARTS = {
    "dialogue": {"large": 0.5, "middle": 0.2, "small": 0.3},
    "recommendation": {"graph": 0.75, "words": 0.25},
}
KIND_OF = {name: kind for kind, parts in PARTS.items() for name in parts}
TEACHERS = {
    name: NamedTeacher(kind=kind, weights_digest=name, weight=weight)
    for kind, parts in PARTS.items()
    for name, weight in parts.items()
}
ETA = 0.22
GATES = ({"gate": "hard", "eta": ETA}, {"gate": "soft"}, {"gate": "fixed", "fixed_lambda": 0.3})
WHOLE = {"top_k": 0, "recommendation_top_k": 0, "recommendation_top_p": 1.0}
TOP = {"top_k": 5, "recommendation_top_k": 3, "recommendation_top_p": 1.0}


@dataclasses.dataclass(frozen=True)
class Case:
    """Logits of five teachers, and a student, in float64."""

    positions: Positions
    logits: dict[str, Tensor]
    """Name -> [P, V], or [B, items]."""
    hidden_PD: Tensor
    weight_VD: Tensor

    def probs(self, kind: str, temperature: float) -> Tensor:
        """The dense mixture of a kind: [P, V], or [B, items]."""
        mixed = [
            weight * torch.softmax(self.logits[name] / temperature, -1)
            for name, weight in PARTS[kind].items()
        ]
        return torch.stack(mixed).sum(0)

    def loss(self, config: DistillConfig, targets: Targets, leaves: list[Tensor]) -> Tensor:
        mixed = conkd.mix_targets(self.positions, targets, config, ITEMS)
        return sparse_cross_entropy_sum(leaves[0], leaves[1], mixed, chunk_size=4)[0]

    def leaves(self) -> list[Tensor]:
        return [it.clone().requires_grad_() for it in (self.hidden_PD, self.weight_VD)]


@pytest.fixture(scope="module")
def case() -> Case:
    generator = torch.Generator().manual_seed(0)
    randn = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    example_P = torch.repeat_interleave(torch.tensor(LENGTHS))
    labels_P = torch.randint(0, V, (P,), generator=generator)
    return Case(
        positions=Positions(
            labels_P=labels_P,
            example_P=example_P,
            weight_P=1.0 / torch.tensor(LENGTHS)[example_P].float(),
            is_item_P=(labels_P >= ITEMS.start) & (labels_P < ITEMS.stop),
        ),
        logits={
            name: 2.0 * (randn(P, V) if kind == "dialogue" else randn(B, len(ITEMS)))
            for name, kind in KIND_OF.items()
        },
        hidden_PD=randn(P, D),
        weight_VD=randn(V, D),
    )


def config_of(**settings: Any) -> DistillConfig:
    return DistillConfig(gamma=0.6, teachers=TEACHERS, **settings)


def sent_rows(case: Case, config: DistillConfig) -> Targets:
    """What a fleet answers at the config's temperature, in float32."""
    rng = np.random.default_rng(3)

    def rows(name: str, kind: str) -> TargetRows:
        logits_RS, is_drawn = case.logits[name], config.tail == "sampled"
        top_k = config.top_k if kind == "dialogue" else config.recommendation_top_k
        return compress(
            logits_RS.float(),
            Compression(samples=N) if is_drawn else Compression(top_k=top_k),
            support=SUPPORTS[kind],
            asked_T=np.full(len(logits_RS), config.temperature),
            uniforms_TN=rng.random((len(logits_RS), N)) if is_drawn else None,
        )

    return {name: rows(name, kind) for name, kind in KIND_OF.items()}


def twin_loss(case: Case, config: DistillConfig, targets: Targets, leaves: list[Tensor]) -> Tensor:
    """docs/loss.md position by position, over what `taught` says of the teachers."""
    scores_PV = leaves[0] @ leaves[1].T
    mass_P = case.probs("dialogue", 1.0)[:, ITEMS.start : ITEMS.stop].sum(-1)
    total = torch.zeros((), dtype=torch.float64)
    for p in range(P):
        mass, fixed = float(mass_P[p]), config.fixed_lambda or 0.0
        lam = {"hard": float(mass >= config.eta), "soft": mass, "fixed": fixed}[config.gate]
        example = int(case.positions.example_P[p])
        log_q_V = torch.log_softmax(scores_PV[p] / config.temperature, -1)
        part = functools.partial(taught, case, config, targets, log_q_V=log_q_V)
        kd = (1 - lam) * part("dialogue", p) + lam * part("recommendation", example)
        nll = -torch.log_softmax(scores_PV[p], -1)[int(case.positions.labels_P[p])]
        loss = (1 - config.gamma) * nll + config.gamma * config.temperature**2 * kd
        total = total + loss / LENGTHS[example]
    return total


def taught(
    case: Case, config: DistillConfig, targets: Targets, kind: str, row: int, *, log_q_V: Tensor
) -> Tensor:
    """A kind's part at a position: of whole rows the dense mixture's, else a sum over teachers."""
    support = range(V) if kind == "dialogue" else ITEMS
    if config.top_k == 0:
        return -case.probs(kind, config.temperature)[row] @ log_q_V[support.start : support.stop]
    kd = torch.zeros((), dtype=torch.float64)
    for name, weight in PARTS[kind].items():
        rows = targets[name]
        start = int(rows.counts_R[:row].sum())
        entries = slice(start, start + int(rows.counts_R[row]))
        kept = rows.ids_E[entries].tolist()
        probs_K = np.exp(rows.log_probs_E[entries].astype(np.float64))
        scale = 1.0 / probs_K.sum() if config.tail == "renormalise" else 1.0
        for j, prob in zip(kept, probs_K, strict=True):
            kd = kd - weight * scale * prob * log_q_V[j]
        rest = [j for j in support if j not in kept]
        if config.tail == "bucket" and rest:
            tail = 1.0 - probs_K.sum()
            kd = kd - weight * tail * torch.logsumexp(log_q_V[rest], 0)
    return kd


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate["gate"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("tail", ["whole", "bucket", "drop", "renormalise", "sampled"])
def test_loss_and_gradient_of_an_ensemble_are_those_of_its_twin(
    case: Case, gate: dict[str, Any], temperature: float, tail: str
) -> None:
    cut = WHOLE if tail == "whole" else {**TOP, "tail": tail}
    config = config_of(**cut, **gate, temperature=temperature)
    targets = sent_rows(case, config)
    got, want = case.leaves(), case.leaves()
    loss, expected = case.loss(config, targets, got), twin_loss(case, config, targets, want)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for one, other in zip(
        torch.autograd.grad(loss, got), torch.autograd.grad(expected, want), strict=True
    ):
        assert float((one - other).norm() / other.norm()) < 1e-6


def test_gate_of_an_ensemble_is_no_teachers_own(case: Case) -> None:
    """And so the tests above would miss none of them."""
    config = config_of(**WHOLE, eta=ETA)
    targets = sent_rows(case, config)
    mixed_P = gate_of_rows(case.positions, targets, config)
    assert 0 < mixed_P.sum() < P
    for name in PARTS["dialogue"]:
        alone = {"dialogue": targets[name]}
        own_P = gate_of_rows(case.positions, alone, DistillConfig(eta=ETA))
        assert not torch.equal(own_P, mixed_P)


def test_named_teacher_that_is_alone_is_the_kinds_one_teacher_bit_for_bit(case: Case) -> None:
    alone = DistillConfig(gamma=0.6, eta=ETA, **TOP)
    named = dataclasses.replace(
        alone, teachers={"large": NamedTeacher(kind="dialogue", weights_digest="large")}
    )
    targets = sent_rows(case, config_of(**TOP))
    short = {"dialogue": targets["large"], "recommendation": targets["graph"]}
    by_name = {"large": targets["large"], "recommendation": targets["graph"]}
    losses = []
    for config, received in ((alone, short), (named, by_name)):
        leaves = case.leaves()
        loss = case.loss(config, received, leaves)
        losses.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*losses, strict=True):
        assert torch.equal(one, other)
    one, other = (
        gate_statistics(case.positions, it, config)
        for config, it in ((alone, short), (named, by_name))
    )
    assert repr(one) == repr(other)


def test_rows_that_no_part_of_an_ensemble_needs_may_be_absent_of_each(case: Case) -> None:
    config = config_of(**TOP, eta=ETA)
    whole = sent_rows(case, config)
    needed = needed_examples(TEACHER_KINDS["recommendation"], whole, LENGTHS, config)
    opens_P = gate_of_rows(case.positions, whole, config).bool()
    assert needed.tolist() == sorted(set(case.positions.example_P[opens_P].tolist()))
    assert 0 < len(needed) < B
    fewer = dict(whole)
    for name in PARTS["recommendation"]:
        fewer[name] = whole[name].take(needed).spread(needed, B)
    leaves = case.leaves()
    assert torch.equal(case.loss(config, fewer, leaves), case.loss(config, whole, leaves))
    lacking = whole["words"].take(needed[1:]).spread(needed[1:], B)
    with pytest.raises(ValueError, match="words rows must be there wherever they have weight"):
        case.loss(config, {**fewer, "words": lacking}, leaves)
    statistics = gate_statistics(case.positions, fewer, config)
    assert statistics.recommendation_rows == len(needed)


def test_ensemble_without_the_rows_of_one_of_its_teachers_is_refused(case: Case) -> None:
    targets = sent_rows(case, config_of(**TOP))
    del targets["middle"]
    with pytest.raises(ValueError, match=r"middle rows must be 11, one per position, got 0"):
        case.loss(config_of(**TOP), targets, case.leaves())


def test_statistics_of_an_ensemble_are_weighted_means(case: Case) -> None:
    config = config_of(**TOP, gate="soft")
    targets = sent_rows(case, config)
    statistics = gate_statistics(case.positions, targets, config)
    mass_P = case.probs("dialogue", 1.0)[:, ITEMS.start : ITEMS.stop].sum(-1)
    item_P = case.positions.is_item_P
    assert statistics.mass_item == pytest.approx(float(mass_P[item_P].sum()), rel=1e-5)
    assert statistics.mass_word == pytest.approx(float(mass_P[~item_P].sum()), rel=1e-5)
    parts = PARTS["dialogue"].items()
    kept = sum(weight * (1.0 - targets[name].tail_R).sum() for name, weight in parts)
    nats = sum(weight * entropy(targets[name]).sum() for name, weight in parts)
    assert statistics.kept_mass == pytest.approx(float(kept), rel=1e-6)
    assert statistics.dialogue_entropy == pytest.approx(float(nats), rel=1e-6)
    # No more than the mixture's own.
    mixture_PV = case.probs("dialogue", 1.0)
    assert nats < float(-(mixture_PV * mixture_PV.log()).sum())
    assert statistics.recommendation_rows == B
