"""How far truncated and quantised targets turn a student's gradient from the dense teacher's.

Everything is dense and in float64: the plain formulas of docs/loss.md, not the kernel that trains.

P positions, V vocabulary, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protos.codec import TargetRows
from trainer.loss.conkd import sparse_rows

TAILS = ("bucket", "drop", "renormalise", "sampled")


@dataclass(frozen=True, eq=False)
class Student:
    """A student's distribution at P positions, and what it is trained towards beside teachers.

    Attributes:
        probs_PV: its softmax, float64.
        labels_P: gold tokens, int64.
        hidden_PD: last hidden states, float64: dL/dlogits times them is the output weight's
            gradient.
    """

    probs_PV: Tensor
    labels_P: Tensor
    hidden_PD: Tensor


def students(logits_PV: Tensor, labels_P: Tensor, hidden_PD: Tensor) -> dict[str, Student]:
    """One near the teacher (its logits plus N(0, .3)), one far (half of them plus N(0, .5))."""
    generator = torch.Generator().manual_seed(0)
    noise_PV = torch.randn(logits_PV.shape, generator=generator, dtype=torch.float64)
    logits_PV, hidden_PD = logits_PV.double(), hidden_PD.double()
    near, far = logits_PV + 0.3 * noise_PV, 0.5 * logits_PV + 0.5 * noise_PV
    return {
        "near": Student(near.softmax(-1), labels_P, hidden_PD),
        "far": Student(far.softmax(-1), labels_P, hidden_PD),
    }


def dense_gradient(student: Student, teacher_PV: Tensor) -> Tensor:
    """dL/dlogits of the cross entropy with a whole distribution, [P, V]: q - p."""
    return student.probs_PV - teacher_PV


def truncated_gradient(student: Student, rows: TargetRows, tail: str) -> Tensor:
    """dL/dlogits of the cross entropy with truncated rows over all V, [P, V]; docs/loss.md."""
    targets = sparse_rows(rows, tail)
    row_E = torch.repeat_interleave(
        torch.arange(rows.num_rows), torch.from_numpy(rows.counts_R.astype(np.int64))
    )
    kept_PV = torch.zeros_like(student.probs_PV)
    kept_PV[row_E, targets.ids_E] = targets.probs_E.double()
    is_kept_PV = torch.zeros_like(kept_PV, dtype=torch.bool)
    is_kept_PV[row_E, targets.ids_E] = True
    tail_P1 = targets.tail_R.double()[:, None]
    rest_PV = student.probs_PV.masked_fill(is_kept_PV, 0.0)
    total_P1 = kept_PV.sum(-1, keepdim=True) + tail_P1
    # Of whole rows there is no rest, and no tail that could lie on it.
    share_PV = rest_PV / rest_PV.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return total_P1 * student.probs_PV - kept_PV - tail_P1 * share_PV


def with_gold(student: Student, teacher_PV: Tensor, gamma: float) -> Tensor:
    """dL/dlogits of the student's whole loss (Eq. 10), given that of the teacher's part."""
    gold_PV = student.probs_PV.clone()
    gold_PV[torch.arange(len(gold_PV)), student.labels_P] -= 1.0
    return (1.0 - gamma) * gold_PV + gamma * teacher_PV


def relative_error(got_PV: Tensor, wanted_PV: Tensor) -> float:
    """Norm of the difference over the norm of what was wanted."""
    return float((got_PV - wanted_PV).norm() / wanted_PV.norm())


def batch_cosine(got_PV: Tensor, wanted_PV: Tensor, hidden_PD: Tensor) -> float:
    """Cosine between the gradients of the output weight that the two give, over the batch."""
    got_DV, wanted_DV = hidden_PD.T @ got_PV, hidden_PD.T @ wanted_PV
    return float((got_DV * wanted_DV).sum() / (got_DV.norm() * wanted_DV.norm()))
