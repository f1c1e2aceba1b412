"""The loss at a temperature, against its definition over whole softmaxes in float64.

B examples, P response positions, V vocabulary, D hidden, N draws of a row.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from protos.codec import TargetRows, WireError, decode, encode
from protos.item_mass import item_mass_bounds
from protos.target_rows import ITEM_MASS, Targets
from protos.teacher_pb2 import UINT8, Compression
from teacher_server.scoring.compress import Support, compress
from trainer.config.distill import DistillConfig
from trainer.data.loader import Positions
from trainer.loss import conkd
from trainer.loss.soft_targets import SoftTargets, SparseRows, TeacherTerm
from trainer.loss.sparse_ce import sparse_cross_entropy_sum

V, ITEMS, D, N = 40, range(30, 37), 6, 8
LENGTHS = [3, 5, 1]
P, B = sum(LENGTHS), len(LENGTHS)
TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
TOP = {"top_k": 5, "recommendation_top_k": 3, "recommendation_top_p": 1.0}
GATES = ({"gate": "hard", "eta": 0.3}, {"gate": "soft"}, {"gate": "fixed", "fixed_lambda": 0.3})
DIALOGUE = Support(vocab_size=V, first_id=0, first_item_column=30, num_items=7)
RECOMMENDATION = Support(vocab_size=V, first_id=30, first_item_column=0, num_items=7)


@dataclasses.dataclass(frozen=True)
class Case:
    """Two teachers' logits and a student, in float64."""

    positions: Positions
    phi_PV: Tensor
    psi_BI: Tensor
    hidden_PD: Tensor
    weight_VD: Tensor


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
        phi_PV=2.0 * randn(P, V),
        psi_BI=2.0 * randn(B, len(ITEMS)),
        hidden_PD=randn(P, D),
        weight_VD=randn(V, D),
    )


def sent_rows(case: Case, config: DistillConfig) -> Targets:
    """What a fleet answers at the config's temperature, in float32."""
    rng = np.random.default_rng(3)

    def rows(logits_RS: Tensor, support: Support, top_k: int) -> TargetRows:
        sampled = config.tail == "sampled"
        return compress(
            logits_RS.float(),
            Compression(samples=N) if sampled else Compression(top_k=top_k),
            support=support,
            asked_T=np.full(len(logits_RS), config.temperature),
            uniforms_TN=rng.random((len(logits_RS), N)) if sampled else None,
        )

    return {
        "dialogue": rows(case.phi_PV, DIALOGUE, config.top_k),
        "recommendation": rows(case.psi_BI, RECOMMENDATION, config.recommendation_top_k),
    }


def twin_loss(
    case: Case, config: DistillConfig, sent: Targets, hidden_PD: Tensor, weight_VD: Tensor
) -> Tensor:
    """docs/loss.md position by position: gate and gold token at 1, the teachers at T, times T^2."""
    temperature = config.temperature
    scores_PV = hidden_PD @ weight_VD.T
    total = torch.zeros((), dtype=torch.float64)
    for p in range(P):
        log_q_V = torch.log_softmax(scores_PV[p], -1)
        soft_log_q_V = torch.log_softmax(scores_PV[p] / temperature, -1)
        mass = float(torch.softmax(case.phi_PV[p], -1)[ITEMS.start : ITEMS.stop].sum())
        fixed = config.fixed_lambda or 0.0
        lam = {"hard": float(mass >= config.eta), "soft": mass, "fixed": fixed}[config.gate]
        example = int(case.positions.example_P[p])
        psi_V = torch.full((V,), -torch.inf, dtype=torch.float64)
        psi_V[ITEMS.start : ITEMS.stop] = case.psi_BI[example]
        taught = torch.zeros((), dtype=torch.float64)
        for weight, logits_V, name, row, top_k in (
            (1 - lam, case.phi_PV[p], "dialogue", p, config.top_k),
            (lam, psi_V, "recommendation", example, config.recommendation_top_k),
        ):
            probs_V = torch.softmax(logits_V / temperature, -1)
            if config.tail == "sampled":
                probs_V, kept = drawn(sent[name], row), list(range(V))
            else:
                kept = probs_V.topk(top_k).indices.tolist()
            held = [j for j, logit in enumerate(logits_V.tolist()) if logit > -math.inf]
            rest = [j for j in held if j not in kept]
            mass_kept = probs_V[kept].sum()
            scale = 1 / mass_kept if config.tail == "renormalise" else 1.0
            taught = taught - weight * scale * (probs_V[kept] * soft_log_q_V[kept]).sum()
            if config.tail == "bucket":
                inside = torch.logsumexp(soft_log_q_V[rest], 0)
                taught = taught - weight * (1 - mass_kept) * inside
        gold = -log_q_V[int(case.positions.labels_P[p])]
        loss = (1 - config.gamma) * gold + config.gamma * temperature**2 * taught
        total = total + loss / LENGTHS[example]
    return total


def drawn(rows: TargetRows, row: int) -> Tensor:
    """A drawn row as it was sent: nothing else is known of the draws."""
    start = int(rows.counts_R[:row].sum())
    entries = slice(start, start + int(rows.counts_R[row]))
    probs_V = torch.zeros(V, dtype=torch.float64)
    probs_V[torch.from_numpy(rows.ids_E[entries].astype(np.int64))] = torch.from_numpy(
        np.exp(rows.log_probs_E[entries].astype(np.float64))
    )
    return probs_V


def gradients(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [grad.double() for grad in torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate["gate"])
@pytest.mark.parametrize("tail", ["bucket", "drop", "renormalise", "sampled"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_loss_and_gradient_are_those_of_the_dense_twin(
    case: Case, temperature: float, tail: str, gate: dict[str, float], dtype: torch.dtype
) -> None:
    settings = {**TOP, **gate, "tail": tail, "temperature": temperature}
    config = DistillConfig(gamma=0.6, **settings)  # type: ignore[arg-type]
    sent = sent_rows(case, config)
    leaves = [it.to(dtype).requires_grad_() for it in (case.hidden_PD, case.weight_VD)]
    mixed = conkd.mix_targets(case.positions, sent, config, ITEMS)
    loss, nll_P = sparse_cross_entropy_sum(leaves[0], leaves[1], mixed, chunk_size=4)
    twins = [it.clone().requires_grad_() for it in (case.hidden_PD, case.weight_VD)]
    expected = twin_loss(case, config, sent, twins[0], twins[1])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for got, want in zip(gradients(loss, leaves), gradients(expected, twins), strict=True):
        assert float((got - want).norm() / want.norm()) < 1e-5
    log_q_PV = torch.log_softmax(case.hidden_PD @ case.weight_VD.T, -1)
    nll_of_twin_P = -log_q_PV[torch.arange(P), case.positions.labels_P]
    torch.testing.assert_close(nll_P.double(), nll_of_twin_P, rtol=1e-5, atol=1e-5)


def random_soft_targets(seed: int, temperature: float) -> SoftTargets:
    """Rows that overlap with each other and with the gold tokens, of any weights."""
    generator = torch.Generator().manual_seed(seed)
    rand = functools.partial(torch.rand, generator=generator, dtype=torch.float64)

    def term(first: int, end: int) -> TeacherTerm:
        ids_RK = torch.stack(
            [torch.randperm(end - first, generator=generator)[:4].sort().values for _ in range(P)]
        )
        return TeacherTerm.of(
            rows=SparseRows(
                offsets_R1=torch.arange(0, 4 * P + 1, 4),
                ids_E=(ids_RK + first).flatten(),
                probs_E=0.2 * rand(4 * P),
                tail_R=rand(P),
            ),
            row_P=torch.randint(0, P, (P,), generator=generator),
            weight_P=rand(P),
            support=(first, end),
        )

    return SoftTargets(
        labels_P=torch.randint(0, V, (P,), generator=generator),
        gold_P=rand(P),
        terms=(term(0, V), term(ITEMS.start, ITEMS.stop)),
        temperature=temperature,
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradient_at_a_temperature_is_that_of_finite_differences(temperature: float) -> None:
    targets = random_soft_targets(1, temperature)
    leaves = [torch.randn(n, D, dtype=torch.float64, requires_grad=True) for n in (P, V)]

    def loss_of(hidden_PD: Tensor, weight_VD: Tensor) -> Tensor:
        return sparse_cross_entropy_sum(hidden_PD, weight_VD, targets, chunk_size=4)[0]

    assert torch.autograd.gradcheck(loss_of, leaves, fast_mode=True)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_bucket_with_hardly_any_mass_keeps_loss_and_gradient_at_a_temperature(
    temperature: float,
) -> None:
    # All but id 0 are e^-300 likely at T = 2, which float32 cannot hold.
    term = TeacherTerm.of(
        rows=SparseRows(
            offsets_R1=torch.tensor([0, 1]),
            ids_E=torch.tensor([0]),
            probs_E=torch.tensor([0.9]),
            tail_R=torch.tensor([0.1]),
        ),
        row_P=torch.tensor([0]),
        weight_P=torch.tensor([1.0]),
        support=(0, V),
    )
    targets = SoftTargets(
        labels_P=torch.tensor([0]),
        gold_P=torch.tensor([0.5]),
        terms=(term,),
        temperature=temperature,
    )
    scores_V = torch.linspace(0.0, 1.0, V)
    scores_V[0] = 600.0
    hidden = torch.ones(1, 1, requires_grad=True)
    weight = scores_V[:, None].clone().requires_grad_()
    loss, _ = sparse_cross_entropy_sum(hidden, weight, targets)
    exact = scores_V.double().requires_grad_()
    soft_V = torch.log_softmax(exact / temperature, -1)
    expected = -0.5 * torch.log_softmax(exact, -1)[0] - 0.9 * soft_V[0]
    expected = expected - 0.1 * torch.logsumexp(soft_V[1:], 0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (got,), (want,) = torch.autograd.grad(loss, [weight]), torch.autograd.grad(expected, [exact])
    torch.testing.assert_close(got[:, 0].double(), want, rtol=1e-5, atol=1e-9)


def test_gradient_of_a_soft_student_is_that_of_logits_as_the_temperature_rises(case: Case) -> None:
    # Hinton et al. 2015, section 2: with T^2 it tends to (z - v) / V for logits without a mean.
    logits_PV = case.hidden_PD @ case.weight_VD.T
    wanted_PV = (logits_PV - logits_PV.mean(-1, True)) - (
        case.phi_PV - case.phi_PV.mean(-1, keepdim=True)
    )
    gate = {"gate": "fixed", "fixed_lambda": 0.0, "top_k": 0}
    config = DistillConfig(gamma=1.0, temperature=20.0, **gate)  # type: ignore[arg-type]
    sent = sent_rows(case, config)
    mixed = conkd.mix_targets(case.positions, {"dialogue": sent["dialogue"]}, config, ITEMS)
    scores_PV = logits_PV.clone().requires_grad_()
    loss, _ = sparse_cross_entropy_sum(scores_PV, torch.eye(V, dtype=torch.float64), mixed)
    (got_PV,) = torch.autograd.grad(loss, [scores_PV])
    got_PV = got_PV / case.positions.weight_P[:, None]
    assert float((V * got_PV - wanted_PV).norm() / wanted_PV.norm()) < 0.15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_temperature_1_is_the_loss_without_one_bit_for_bit(dtype: torch.dtype) -> None:
    targets = random_soft_targets(2, 1.0).to(torch.device("cpu"))
    assert not targets.is_tempered
    assert random_soft_targets(2, 2.0).to(torch.device("cpu")).is_tempered
    without = SoftTargets(labels_P=targets.labels_P, gold_P=targets.gold_P, terms=targets.terms)
    outcomes = []
    for each in (targets, without):
        generator = torch.Generator().manual_seed(5)
        leaves = [torch.randn(n, D, generator=generator).to(dtype) for n in (P, V)]
        for leaf in leaves:
            leaf.requires_grad_()
        loss, nll_P = sparse_cross_entropy_sum(leaves[0], leaves[1], each, chunk_size=4)
        outcomes.append([loss, nll_P, *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*outcomes, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0, 20.0])
@pytest.mark.parametrize(
    "cut", [{"top_k": 5}, {"top_k": 16}, {"top_p": 0.9}, {}], ids=lambda cut: str(cut)
)
def test_item_mass_of_a_right_answer_is_within_its_bounds(
    temperature: float, cut: dict[str, float]
) -> None:
    logits_TV = 3.0 * torch.randn(300, V, generator=torch.Generator().manual_seed(7))
    rows = compress(
        logits_TV,
        Compression(**cut),  # type: ignore[arg-type]
        support=DIALOGUE,
        asked_T=np.full(300, temperature),
    )
    own_T = torch.softmax(logits_TV.double(), -1)[:, ITEMS.start : ITEMS.stop].sum(-1).numpy()
    np.testing.assert_allclose(rows.item_mass_R, own_T, atol=1e-6)
    for each in (rows, decode(encode(rows, UINT8), num_rows=300, vocab_size=V)):
        low_R, high_R = item_mass_bounds(each, ITEMS, temperature)
        slack = 0.02 if temperature == 1.0 else 1e-6
        assert np.all(low_R - slack <= own_T) and np.all(own_T <= high_R + slack)


def test_item_mass_of_another_row_is_refused_at_a_temperature(case: Case) -> None:
    config = DistillConfig(temperature=2.0, **TOP)  # type: ignore[arg-type]
    sent = sent_rows(case, config)
    rows = sent["dialogue"]
    low_R, high_R = item_mass_bounds(rows, ITEMS, 2.0)
    assert float((high_R - low_R).mean()) < 0.5
    row = int(high_R.argmin())
    for wrong in (high_R[row] + 0.15, 1.0):
        mass_R = rows.item_mass_R.copy()
        mass_R[row] = wrong
        bad = {**sent, "dialogue": dataclasses.replace(rows, masses={ITEM_MASS: mass_R})}
        with pytest.raises(WireError, match=r"item mass of a row must be in \["):
            conkd.mix_targets(case.positions, bad, config, ITEMS)


def test_item_mass_bounds_of_a_row_without_entries_are_open() -> None:
    rows = TargetRows(
        counts_R=np.array([0, 1], np.int32),
        ids_E=np.array([31], np.int32),
        log_probs_E=np.array([np.log(0.6)], np.float32),
        tail_R=np.array([1.0, 0.4], np.float32),
        masses={ITEM_MASS: np.array([0.5, 0.9], np.float32)},
        vocab_size=V,
    )
    for temperature in (0.5, 2.0):
        low_R, high_R = item_mass_bounds(rows, ITEMS, temperature)
        assert (low_R[0], high_R[0]) == (0.0, 1.0)
        assert low_R[1] < 0.9 < high_R[1] + 0.1
