"""The ways to a loss and its gradients that the loss benchmark compares.

Every arm is built once on a problem and then called again and again; a call is one forward and
backward pass and returns what an optimiser needs. `exact_gradients` is the float64 twin of ours.

P positions, C positions of one chunk, B examples, K entries of a row, V vocabulary, N items,
D hidden.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cluster.bench.loss.problem import Problem, entries, whole_rows
from trainer.config.distill import DistillConfig
from trainer.config.run import TrainConfig
from trainer.kinds.names import DIALOGUE, RECOMMENDATION
from trainer.loss.conkd import mix_targets
from trainer.loss.sparse_ce import SparseCrossEntropy

# Soft: both teachers weigh at every position, which is the dearest case.
DISTILL = DistillConfig(gate="soft")


@dataclass(frozen=True, eq=False)
class Computed:
    """Loss sum (None: the arm has none), and the gradients of hidden states and weight."""

    loss: Tensor | None
    grad_hidden_PD: Tensor
    grad_weight_VD: Tensor


Arm = Callable[[], Computed]


def ours(problem: Problem) -> Arm:
    """As trainer/train.py does it: mix the rows, then the student's loss module."""
    loss_module = SparseCrossEntropy(problem.head, TrainConfig.loss_chunk_size)

    def compute() -> Computed:
        hidden_PD = problem.hidden_PD
        targets = mix_targets(problem.positions, problem.targets, DISTILL, problem.items)
        loss = loss_module(hidden_PD, targets.to(hidden_PD.device))[0]
        return _with_gradients(loss, problem)

    return compute


def hard_ce(problem: Problem) -> Arm:
    """Cross entropy with the gold tokens, as everybody writes it; no teacher."""
    return _hard_ce(problem, _hard_ce_sum)


def compiled_hard_ce(problem: Problem) -> Arm:
    """The same through torch.compile."""
    return _hard_ce(problem, torch.compile(_hard_ce_sum, dynamic=False))


def liger_hard_ce(problem: Problem) -> Arm:
    """The same fused by Liger-Kernel, which is no dependency of ours.

    Raises:
        ImportError: if it is not installed.
        RuntimeError: on a CPU.
    """
    if problem.hidden_PD.device.type == "cpu":
        raise RuntimeError("Liger-Kernel is written in Triton, which needs a GPU, got a CPU.")
    liger = importlib.import_module("liger_kernel.transformers")
    fused = liger.LigerFusedLinearCrossEntropyLoss(reduction="sum")
    return _hard_ce(problem, lambda hidden_PD, weight, labels: fused(weight, hidden_PD, labels))


def _hard_ce_sum(hidden_PD: Tensor, weight_VD: Tensor, labels_P: Tensor) -> Tensor:
    return functional.cross_entropy(hidden_PD @ weight_VD.T, labels_P, reduction="sum")


def _hard_ce(problem: Problem, loss_of: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Arm:
    labels_P = problem.positions.labels_P.to(problem.hidden_PD.device)

    def compute() -> Computed:
        loss = loss_of(problem.hidden_PD, problem.head.weight, labels_P)
        return _with_gradients(loss, problem)

    return compute


def dense(problem: Problem) -> Arm:
    """The two-teacher loss on whole rows (paper Eqs. 7-11): all logits, all teachers' numbers."""
    device = problem.hidden_PD.device
    dialogue_PV = whole_rows(problem.targets[DIALOGUE], range(problem.items.stop), device)
    recommendation_BN = whole_rows(problem.targets[RECOMMENDATION], problem.items, device)
    positions, first_item = problem.positions, problem.items.start
    gate_P = torch.from_numpy(problem.targets[DIALOGUE].item_mass_R).to(device)
    weight_P, labels_P = positions.weight_P.to(device), positions.labels_P.to(device)
    example_P = positions.example_P.to(device)
    position_P = torch.arange(len(labels_P), device=device)

    def compute() -> Computed:
        target_PV = dialogue_PV * (DISTILL.gamma * (1.0 - gate_P) * weight_P)[:, None]
        recommended_P = DISTILL.gamma * gate_P * weight_P
        target_PV[:, first_item:] += recommended_P[:, None] * recommendation_BN[example_P]
        target_PV[position_P, labels_P] += (1.0 - DISTILL.gamma) * weight_P
        log_q_PV = (problem.hidden_PD @ problem.head.weight.T).log_softmax(-1)
        return _with_gradients(-(target_PV * log_q_PV).sum(), problem)

    return compute


def three_matmuls(problem: Problem) -> Arm:
    """The products without which no loss has its gradients: logits, and one per gradient."""
    hidden_PD, weight_VD = problem.hidden_PD.detach(), problem.head.weight.detach()

    def compute() -> Computed:
        logits_PV = hidden_PD @ weight_VD.T
        return Computed(None, logits_PV @ weight_VD, logits_PV.T @ hidden_PD)

    return compute


def three_matmuls_kept(problem: Problem) -> Arm:
    """The same with a buffer for the logits that exists before: none of its pages is new."""
    hidden_PD, weight_VD = problem.hidden_PD.detach(), problem.head.weight.detach()
    buffer_PV = hidden_PD.new_zeros(len(hidden_PD), len(weight_VD))

    def compute() -> Computed:
        logits_PV = torch.mm(hidden_PD, weight_VD.T, out=buffer_PV)
        return Computed(None, logits_PV @ weight_VD, logits_PV.T @ hidden_PD)

    return compute


def _with_gradients(loss: Tensor, problem: Problem) -> Computed:
    gradients = torch.autograd.grad(loss, [problem.hidden_PD, problem.head.weight])
    return Computed(loss.detach(), *gradients)


def exact_gradients(problem: Problem, *, chunk_size: int = 128) -> Computed:
    """Loss and gradients of what `ours` computes, dense and in float64.

    Chunk by chunk, since a sum over positions may be: [P, V] in float64 need not fit.
    """
    hidden_PD = problem.hidden_PD.detach().double().requires_grad_()
    weight_VD = problem.head.weight.detach().double().requires_grad_()
    loss = hidden_PD.new_zeros(())
    for chunk_P in torch.arange(len(hidden_PD)).split(chunk_size):
        log_q_CV = (hidden_PD[chunk_P] @ weight_VD.T).log_softmax(-1)
        part = _exact_loss(log_q_CV, problem, chunk_P)
        part.backward()
        loss += part.detach()
    assert hidden_PD.grad is not None and weight_VD.grad is not None
    return Computed(loss, hidden_PD.grad, weight_VD.grad)


def _exact_loss(log_q_CV: Tensor, problem: Problem, chunk_P: Tensor) -> Tensor:
    """The loss of docs/loss.md with a bucket per teacher, as printed there."""
    positions, targets, gamma = problem.positions, problem.targets, DISTILL.gamma
    gate_C = torch.from_numpy(targets[DIALOGUE].item_mass_R)[chunk_P].to(log_q_CV)
    weight_C = positions.weight_P[chunk_P].to(log_q_CV)
    labels_C1 = positions.labels_P[chunk_P, None].to(log_q_CV.device)
    learnt_C = (1.0 - gamma) * log_q_CV.gather(1, labels_C1).squeeze(1)
    for rows, support, row_C, share_C in (
        (targets[DIALOGUE], range(problem.items.stop), chunk_P, 1.0 - gate_C),
        (targets[RECOMMENDATION], problem.items, positions.example_P[chunk_P], gate_C),
    ):
        ids_CK, probs_CK = (each_RK[row_C].to(log_q_CV.device) for each_RK in entries(rows))
        tail_C = torch.from_numpy(rows.tail_R)[row_C].to(log_q_CV)
        outside_CV = torch.ones_like(log_q_CV, dtype=torch.bool)
        outside_CV[:, support.start : support.stop] = False
        outside_CV.scatter_(1, ids_CK, True)
        kept_C = (probs_CK * log_q_CV.gather(1, ids_CK)).sum(-1)
        rest_C = log_q_CV.masked_fill(outside_CV, -torch.inf).logsumexp(-1)
        learnt_C = learnt_C + gamma * share_C * (kept_C + tail_C * rest_C)
    return -(weight_C * learnt_C).sum()
