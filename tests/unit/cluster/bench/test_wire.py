from __future__ import annotations

import numpy as np
import pytest
import torch

from cluster.bench.wire.gradients import (
    TAILS,
    Student,
    batch_cosine,
    dense_gradient,
    relative_error,
    truncated_gradient,
    with_gold,
)
from protos.teacher_pb2 import Compression
from teacher_server.scoring.compress import Support, compress
from trainer.loss.conkd import sparse_rows
from trainer.loss.soft_targets import SoftTargets, TeacherTerm
from trainer.loss.sparse_ce import sparse_cross_entropy_sum

P, V, D = 5, 23, 4
SUPPORT = Support(vocab_size=V, first_id=0, first_item_column=15, num_items=6)


def random_student() -> tuple[Student, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_PD = torch.randn(P, D, generator=generator, dtype=torch.float64)
    weight_VD = torch.randn(V, D, generator=generator, dtype=torch.float64)
    labels_P = torch.randint(0, V, (P,), generator=generator)
    return Student((hidden_PD @ weight_VD.T).softmax(-1), labels_P, hidden_PD), weight_VD


@pytest.mark.parametrize("tail", TAILS)
def test_truncated_gradient_is_the_one_that_the_kernel_trains_with(tail: str) -> None:
    student, weight_VD = random_student()
    logits_PV = torch.randn(P, V, generator=torch.Generator().manual_seed(1))
    uniforms_PN = np.random.default_rng(2).random((P, 6))
    cut = Compression(samples=6) if tail == "sampled" else Compression(top_k=6)
    rows = compress(logits_PV, cut, support=SUPPORT, uniforms_TN=uniforms_PN)
    term = TeacherTerm.of(
        rows=sparse_rows(rows, tail),
        row_P=torch.arange(P),
        weight_P=torch.ones(P),
        support=(0, V),
    )
    targets = SoftTargets(labels_P=student.labels_P, gold_P=torch.zeros(P), terms=(term,))
    leaves = [student.hidden_PD.clone().requires_grad_(), weight_VD.clone().requires_grad_()]
    loss = sparse_cross_entropy_sum(leaves[0], leaves[1], targets)[0]
    hidden_grad, weight_grad = torch.autograd.grad(loss, leaves)
    gradient_PV = truncated_gradient(student, rows, tail)
    torch.testing.assert_close(gradient_PV @ weight_VD, hidden_grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient_PV.T @ student.hidden_PD, weight_grad, rtol=1e-5, atol=1e-6)


def test_truncated_gradient_of_whole_rows_is_the_dense_one() -> None:
    student, _ = random_student()
    logits_PV = torch.randn(P, V, generator=torch.Generator().manual_seed(1))
    rows = compress(logits_PV, Compression(), support=SUPPORT)
    wanted_PV = dense_gradient(student, logits_PV.double().softmax(-1))
    for tail in ("bucket", "drop", "renormalise"):
        got_PV = truncated_gradient(student, rows, tail)
        assert relative_error(got_PV, wanted_PV) < 1e-6
        assert batch_cosine(got_PV, wanted_PV, student.hidden_PD) == pytest.approx(1.0)


def test_with_gold_is_the_mixture_of_equation_10() -> None:
    probs_PV = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    student = Student(probs_PV, torch.tensor([1]), torch.ones(1, 1, dtype=torch.float64))
    mixed_PV = with_gold(student, torch.tensor([[1.0, -1.0]], dtype=torch.float64), gamma=0.4)
    assert mixed_PV.tolist() == [pytest.approx([0.6 * 0.25 + 0.4, 0.6 * -0.25 - 0.4])]
