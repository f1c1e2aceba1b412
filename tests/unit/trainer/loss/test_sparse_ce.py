from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from trainer.loss import sparse_ce
from trainer.loss.soft_targets import SoftTargets, SparseRows, TeacherTerm
from trainer.loss.sparse_ce import SparseCrossEntropy, sparse_cross_entropy_sum

V, D, P, FIRST_ITEM, END_ITEM = 23, 6, 9, 10, 18
TREATMENTS = ("bucket", "drop", "renormalise", "sampled")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]


def random_term(generator: torch.Generator, support: tuple[int, int], top_k: int) -> TeacherTerm:
    first, end = support
    dense_PS = torch.rand(P, end - first, generator=generator, dtype=torch.float64)
    dense_PS = dense_PS / dense_PS.sum(-1, keepdim=True)
    counts = torch.randint(0, top_k + 1, (P,), generator=generator)
    ids, probs, tails = [], [], []
    for row in range(P):
        kept = torch.randperm(end - first, generator=generator)[: counts[row]].sort().values
        ids.append(kept + first)
        probs.append(dense_PS[row, kept])
        whole = len(kept) == end - first
        tails.append(0.0 if whole else 1.0 - float(dense_PS[row, kept].sum()))
    weight_P = torch.rand(P, generator=generator, dtype=torch.float64)
    weight_P[0] = 0.0
    return TeacherTerm.of(
        rows=SparseRows(
            offsets_R1=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
            ids_E=torch.cat(ids),
            probs_E=torch.cat(probs),
            tail_R=torch.tensor(tails, dtype=torch.float64),
        ),
        row_P=torch.randint(0, P, (P,), generator=generator),
        weight_P=weight_P,
        support=support,
    )


def random_targets(seed: int, top_k: int = 5) -> SoftTargets:
    generator = torch.Generator().manual_seed(seed)
    return SoftTargets(
        labels_P=torch.randint(0, V, (P,), generator=generator),
        gold_P=torch.rand(P, generator=generator, dtype=torch.float64),
        terms=(
            random_term(generator, (0, V), top_k),
            random_term(generator, (FIRST_ITEM, END_ITEM), top_k),
        ),
    )


def treated(targets: SoftTargets, treatment: str) -> SoftTargets:
    """The same targets as each treatment of docs/loss.md leaves them, by hand."""
    terms = []
    for term in targets.terms:
        rows, probs_E = term.rows, term.rows.probs_E.clone()
        for r in range(P):
            row = slice(int(rows.offsets_R1[r]), int(rows.offsets_R1[r + 1]))
            if treatment == "renormalise":
                probs_E[row] /= rows.probs_E[row].sum()
            elif treatment == "sampled":  # counts of draws over their number: multiples of 1/8
                probs_E[row] = (8 * rows.probs_E[row]).ceil() / 8
        tail_R = rows.tail_R if treatment == "bucket" else torch.zeros_like(rows.tail_R)
        rows = dataclasses.replace(rows, probs_E=probs_E, tail_R=tail_R)
        terms.append(dataclasses.replace(term, rows=rows))
    return dataclasses.replace(targets, terms=tuple(terms))


def moved(targets: SoftTargets, device: str, dtype: torch.dtype) -> SoftTargets:
    """The targets as conkd.py hands them to a device, in float32 or what the loss is summed in."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    return SoftTargets(
        labels_P=move(targets.labels_P),
        gold_P=move(targets.gold_P),
        terms=tuple(term.map(move) for term in targets.terms),
    )


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got.double().cpu() - want).norm() / want.norm())


def dense_twin(hidden_PD: Tensor, weight_VD: Tensor, targets: SoftTargets) -> Tensor:
    """The definition, position by position, in plain differentiable torch."""
    log_q_PV = torch.log_softmax(hidden_PD @ weight_VD.T, dim=-1)
    loss = hidden_PD.new_zeros(())
    for p in range(len(targets.labels_P)):
        loss = loss - targets.gold_P[p] * log_q_PV[p, targets.labels_P[p]]
        for term in targets.terms:
            row = int(term.row_P[p])
            entries = slice(int(term.rows.offsets_R1[row]), int(term.rows.offsets_R1[row + 1]))
            ids, probs = term.rows.ids_E[entries], term.rows.probs_E[entries]
            part = (probs * log_q_PV[p, ids]).sum()
            rest = [j for j in range(*term.support) if j not in set(ids.tolist())]
            if term.rows.tail_R[row] > 0:
                part = part + term.rows.tail_R[row] * torch.logsumexp(log_q_PV[p, rest], dim=0)
            loss = loss - term.weight_P[p] * part
    return loss


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_sparse_ce_with_two_tails_matches_dense_twin(seed: int, chunk_size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets = random_targets(seed)
    hidden = torch.randn(P, D, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64, requires_grad=True)
    loss, _ = sparse_cross_entropy_sum(hidden, weight, targets, chunk_size=chunk_size)
    grads = torch.autograd.grad(loss, [hidden, weight])
    expected = dense_twin(hidden, weight, targets)
    expected_grads = torch.autograd.grad(expected, [hidden, weight])
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_sparse_ce_of_two_treated_teachers_matches_dense_twin(treatment: str) -> None:
    targets = treated(random_targets(3), treatment)
    hidden = torch.randn(P, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    loss, _ = sparse_cross_entropy_sum(hidden, weight, targets, chunk_size=4)
    expected = dense_twin(hidden, weight, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(loss, [hidden, weight]),
        torch.autograd.grad(expected, [hidden, weight]),
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_sparse_ce_passes_gradcheck(treatment: str) -> None:
    targets = treated(random_targets(7), treatment)
    hidden = torch.randn(P, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, D, dtype=torch.float64, requires_grad=True)

    def loss_of(h: Tensor, w: Tensor) -> Tensor:
        return sparse_cross_entropy_sum(h, w, targets, chunk_size=4)[0]

    # One random direction: entry by entry the dense twin above is closer, 1e-10.
    assert torch.autograd.gradcheck(loss_of, (hidden, weight), fast_mode=True)


def test_sparse_ce_gradients_of_a_retained_graph_are_the_same_again() -> None:
    targets = random_targets(4)
    hidden = torch.randn(P, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    loss = 3.0 * sparse_cross_entropy_sum(hidden, weight, targets, chunk_size=4)[0]
    first = torch.autograd.grad(loss, [hidden, weight], retain_graph=True)
    again = torch.autograd.grad(loss, [hidden, weight])
    expected = torch.autograd.grad(3.0 * dense_twin(hidden, weight, targets), [hidden, weight])
    torch.testing.assert_close(first, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(again, expected, rtol=1e-10, atol=1e-12)


def test_sparse_ce_of_no_positions_is_zero() -> None:
    hidden, weight = torch.zeros(0, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
    targets = SoftTargets(labels_P=torch.zeros(0, dtype=torch.int64), gold_P=torch.zeros(0))
    loss, nll_P = sparse_cross_entropy_sum(hidden, weight, targets)
    loss.backward()
    assert loss.item() == 0.0 and nll_P.shape == (0,)
    assert weight.grad is not None and not weight.grad.any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-12),
        (torch.float32, 1e-6),
        (torch.bfloat16, 2e-2),
        (torch.float16, 2e-3),
    ],
)
def test_sparse_ce_of_any_dtype_and_device_is_near_float64_dense(
    device: str, dtype: torch.dtype, tolerance: float
) -> None:
    targets, generator = random_targets(6), torch.Generator().manual_seed(6)
    hidden_PD, weight_VD = (torch.randn(n, D, generator=generator) for n in (P, V))
    leaves = [hidden_PD.to(device, dtype), weight_VD.to(device, dtype)]
    for leaf in leaves:
        leaf.requires_grad_()
    exact = [leaf.detach().double().cpu().requires_grad_() for leaf in leaves]
    wide = torch.promote_types(dtype, torch.float32)
    on_device = moved(targets, device, wide)
    loss, _ = sparse_cross_entropy_sum(leaves[0], leaves[1], on_device, chunk_size=4)
    expected = dense_twin(exact[0], exact[1], targets)
    assert loss.dtype == wide
    assert relative_error(loss.detach(), expected.detach()) < tolerance
    grads = torch.autograd.grad(loss, leaves)
    for got, want in zip(grads, torch.autograd.grad(expected, exact), strict=True):
        assert got.dtype == dtype
        assert relative_error(got, want) < tolerance


def test_sparse_ce_in_float16_keeps_gradients_that_float16_alone_would_lose() -> None:
    # 4,096 ids, each 2.4e-4 likely, at a weight of 1e-4: gradients of 2.4e-8, less than 6e-8.
    vocab_size, loss_scale = 4096, 4096.0
    hidden = torch.ones(1, 2, dtype=torch.float16, requires_grad=True)
    weight = torch.zeros(vocab_size, 2, dtype=torch.float16, requires_grad=True)
    targets = SoftTargets(labels_P=torch.tensor([0]), gold_P=torch.tensor([1e-4]))
    loss, _ = sparse_cross_entropy_sum(hidden, weight, targets)
    (loss * loss_scale).backward()
    assert weight.grad is not None
    expected = torch.full((vocab_size - 1, 2), 1e-4 / vocab_size * loss_scale)
    torch.testing.assert_close(weight.grad[1:].float(), expected, rtol=2e-2, atol=0.0)


@pytest.mark.parametrize(("num_positions", "state"), [(256, 100.0), (4096, 100.0), (64, 6e4)])
def test_sparse_ce_in_float16_has_room_for_many_positions_that_pull_alike(
    num_positions: int, state: float
) -> None:
    # 85 responses of three tokens, one hidden state of 100: a gradient of about 33 for id 0, and 64
    # times as much is held meanwhile.
    hidden = torch.full((num_positions, 2), state, dtype=torch.float16, requires_grad=True)
    weight = torch.zeros(50, 2, dtype=torch.float16, requires_grad=True)
    targets = SoftTargets(
        labels_P=torch.zeros(num_positions, dtype=torch.int64),
        gold_P=torch.full((num_positions,), 1.0 / 3.0),
    )
    loss, _ = sparse_cross_entropy_sum(hidden, weight, targets, chunk_size=num_positions)
    (loss / num_positions).backward()
    assert weight.grad is not None
    expected = state / 3.0 * 0.98  # q of id 0 is 1 in 50
    torch.testing.assert_close(
        weight.grad[0].float(), torch.full((2,), -expected), rtol=2e-3, atol=0.0
    )


def test_sparse_ce_in_float16_loses_no_dimension_beside_one_that_is_much_larger() -> None:
    torch.manual_seed(0)
    states = torch.rand(16, 4) + 0.5
    states[:, 0] *= 300.0
    hidden = states.half().requires_grad_()
    weight = torch.zeros(30_000, 4, dtype=torch.float16, requires_grad=True)
    labels = torch.zeros(16, dtype=torch.int64)
    targets = SoftTargets(labels_P=labels, gold_P=torch.full((16,), 1e-3))
    loss, _ = sparse_cross_entropy_sum(hidden, weight, targets)
    (loss * 4096.0).backward()
    assert weight.grad is not None
    expected = states.half().double().sum(0) * 1e-3 / 30_000 * 4096.0
    got = weight.grad[1:].double()
    torch.testing.assert_close(got, expected.expand_as(got), rtol=2e-2, atol=0.0)


def test_sparse_ce_computes_no_gradient_where_none_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(sparse_ce, "add_outer_", refuse)
    hidden, weight = torch.randn(P, D), nn.Parameter(torch.randn(V, D))
    targets = random_targets(7)
    with torch.no_grad():
        loss, _ = sparse_cross_entropy_sum(hidden, weight, moved(targets, "cpu", torch.float32))
    expected = dense_twin(hidden.double(), weight.detach().double(), targets)
    assert relative_error(loss, expected) < 1e-6


def test_sparse_ce_without_terms_is_plain_cross_entropy() -> None:
    labels = torch.randint(0, V, (P,))
    hidden, weight = torch.randn(P, D), torch.randn(V, D)
    targets = SoftTargets(labels_P=labels, gold_P=torch.ones(P))
    loss, nll_P = sparse_cross_entropy_sum(hidden, weight, targets)
    expected_P = nn.functional.cross_entropy(hidden @ weight.T, labels, reduction="none")
    torch.testing.assert_close(nll_P, expected_P)
    torch.testing.assert_close(loss, expected_P.sum())


def test_sparse_ce_with_one_kept_entry_matches_hand_value() -> None:
    # q = (1/4, 1/2, 1/4); teacher sends id 0 with 1/2, tail 1/2 over {1, 2} where q is 3/4.
    hidden = torch.eye(3, dtype=torch.float64)[:1]
    weight = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log().T.repeat(1, 3)
    half = torch.tensor([0.5], dtype=torch.float64)
    rows = SparseRows(
        offsets_R1=torch.tensor([0, 1]), ids_E=torch.tensor([0]), probs_E=half, tail_R=half
    )
    term = TeacherTerm.of(
        rows=rows,
        row_P=torch.tensor([0]),
        weight_P=torch.ones(1, dtype=torch.float64),
        support=(0, 3),
    )
    targets = SoftTargets(
        labels_P=torch.tensor([1]), gold_P=torch.zeros(1, dtype=torch.float64), terms=(term,)
    )
    loss, nll_P = sparse_cross_entropy_sum(hidden, weight, targets)
    assert loss.item() == pytest.approx(-0.5 * math.log(0.25) - 0.5 * math.log(0.75))
    assert nll_P.item() == pytest.approx(-math.log(0.5))


def test_sparse_ce_of_confident_student_keeps_a_finite_tail() -> None:
    # The student puts all but e^-60 of its mass on the one kept entry.
    weight = torch.tensor([[60.0], [0.0], [0.0]])
    hidden = torch.ones(1, 1, requires_grad=True)
    rows = SparseRows(
        offsets_R1=torch.tensor([0, 1]),
        ids_E=torch.tensor([0]),
        probs_E=torch.tensor([0.9]),
        tail_R=torch.tensor([0.1]),
    )
    term = TeacherTerm.of(
        rows=rows, row_P=torch.tensor([0]), weight_P=torch.ones(1), support=(0, 3)
    )
    targets = SoftTargets(labels_P=torch.tensor([0]), gold_P=torch.zeros(1), terms=(term,))
    loss, _ = sparse_cross_entropy_sum(hidden, weight, targets)
    # - 0.1 * log(2 e^-60)
    assert loss.item() == pytest.approx(0.1 * (60.0 - math.log(2.0)), rel=1e-5)
    (grad,) = torch.autograd.grad(loss, hidden)
    # dL/dz_0 = q_0 - 0.9 = 0.1, times the weight 60.
    assert grad.item() == pytest.approx(6.0, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gap", [60.0, 80.0, 88.0, 95.0, 104.0, 200.0, 1e4])
def test_bucket_that_the_student_gives_next_to_nothing_still_pulls(
    gap: float, dtype: torch.dtype
) -> None:
    # e^-87 is the smallest normal float32, e^-103 the smallest of all.
    hidden = torch.tensor([[0.0, -gap, -gap]], dtype=dtype, requires_grad=True)
    weight = torch.eye(3, dtype=dtype, requires_grad=True)
    rows = SparseRows(
        offsets_R1=torch.tensor([0, 1]),
        ids_E=torch.tensor([0]),
        probs_E=torch.tensor([0.5]),
        tail_R=torch.tensor([0.5]),
    )
    term = TeacherTerm.of(
        rows=rows, row_P=torch.tensor([0]), weight_P=torch.ones(1), support=(0, 3)
    )
    targets = SoftTargets(labels_P=torch.tensor([0]), gold_P=torch.zeros(1), terms=(term,))
    loss, _ = sparse_cross_entropy_sum(hidden, weight, targets)
    gap = -float(hidden.detach()[0, 1])
    assert loss.item() == pytest.approx(0.5 * (gap - math.log(2.0)), rel=1e-6)
    grad_hidden, grad_weight = torch.autograd.grad(loss, [hidden, weight])
    expected = torch.tensor([0.5, -0.25, -0.25])
    torch.testing.assert_close(grad_hidden[0].float(), expected, rtol=1e-3, atol=0.0)
    outer = torch.outer(expected, hidden[0].detach().float())
    torch.testing.assert_close(grad_weight.float(), outer, rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("scale", [30.0, 100.0, 1000.0])
def test_thin_buckets_of_two_teachers_match_dense_twin(scale: float) -> None:
    generator = torch.Generator().manual_seed(8)
    targets = random_targets(8)
    leaves = [torch.randn(n, D, generator=generator) for n in (P, V)]
    leaves[0] *= scale
    for leaf in leaves:
        leaf.requires_grad_()
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    loss, _ = sparse_cross_entropy_sum(
        leaves[0], leaves[1], moved(targets, "cpu", torch.float32), chunk_size=4
    )
    expected = dense_twin(exact[0], exact[1], targets)
    assert relative_error(loss.detach(), expected.detach()) < 1e-5
    grads = torch.autograd.grad(loss, leaves)
    for got, want in zip(grads, torch.autograd.grad(expected, exact), strict=True):
        assert relative_error(got, want) < 1e-3


@pytest.mark.parametrize(("noise", "tolerance"), [(1.0, 0.01), (0.1, 0.05), (0.02, 0.10)])
def test_sparse_ce_in_bfloat16_stays_right_near_the_teacher(noise: float, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(9)
    num_positions, vocab_size, size, top_k = 64, 8000, 256, 64
    hidden = torch.randn(num_positions, size, generator=generator)
    weight = torch.randn(vocab_size, size, generator=generator) * 4.0 / size**0.5
    hidden, weight = hidden.bfloat16(), weight.bfloat16()
    logits_PV = hidden.double() @ weight.double().T
    drawn_PV = torch.randn(num_positions, vocab_size, generator=generator, dtype=torch.float64)
    probs_PV = torch.softmax(logits_PV + noise * drawn_PV, -1)
    kept = probs_PV.topk(top_k)
    term = TeacherTerm.of(
        rows=SparseRows(
            offsets_R1=torch.arange(num_positions + 1) * top_k,
            ids_E=kept.indices.flatten(),
            probs_E=kept.values.flatten(),
            tail_R=1.0 - kept.values.sum(-1),
        ),
        row_P=torch.arange(num_positions),
        weight_P=torch.ones(num_positions, dtype=torch.float64),
        support=(0, vocab_size),
    )
    labels_P = torch.zeros(num_positions, dtype=torch.int64)
    gold_P = torch.zeros(num_positions, dtype=torch.float64)
    targets = SoftTargets(labels_P=labels_P, gold_P=gold_P, terms=(term,))
    exact = hidden.double().requires_grad_()
    loss, _ = sparse_cross_entropy_sum(exact, weight.double(), targets)
    (want,) = torch.autograd.grad(loss, exact)
    hidden.requires_grad_()
    loss, _ = sparse_cross_entropy_sum(hidden, weight, moved(targets, "cpu", torch.float32))
    (got,) = torch.autograd.grad(loss, hidden)
    assert relative_error(got, want) < tolerance


def test_sparse_ce_module_shares_the_output_weight() -> None:
    head = nn.Linear(D, V, bias=False)
    module = SparseCrossEntropy(head, chunk_size=4)
    targets = SoftTargets(labels_P=torch.zeros(P, dtype=torch.int64), gold_P=torch.ones(P))
    loss, *_ = module(torch.randn(P, D), targets)
    loss.backward()
    assert head.weight.grad is not None
    assert module.weight is head.weight


@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16])
def test_sparse_ce_under_autocast_stays_near_float64(hidden_dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    targets = random_targets(5)
    hidden_PD = torch.randn(P, D, generator=generator).to(hidden_dtype)
    weight_VD = torch.randn(V, D, generator=generator).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = sparse_cross_entropy_sum(hidden_PD, weight_VD, targets, chunk_size=4)
    loss.backward()
    exact_VD = weight_VD.detach().double().requires_grad_()
    exact = dense_twin(hidden_PD.double(), exact_VD, targets)
    exact.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert weight_VD.grad is not None and exact_VD.grad is not None
    similarity = nn.functional.cosine_similarity(
        weight_VD.grad.double().flatten(), exact_VD.grad.flatten(), dim=0
    )
    assert similarity.item() > 0.999
