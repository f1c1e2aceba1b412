"""The loss benchmark where it needs processes: a compiler, and a process to measure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from cluster.bench.loss import arms as loss_arms
from cluster.bench.loss import bench as loss
from cluster.bench.loss.arms import Computed
from cluster.bench.loss.memory import memory_row
from cluster.bench.loss.problem import Shape, make_problem
from cluster.bench.plots import draw_loss

pytestmark = pytest.mark.everything

CPU = torch.device("cpu")


TINY = Shape(positions=37, vocab_size=300, hidden_size=8, num_entries=6)


def assert_same(got: Computed, wanted: Computed) -> None:
    for mine, exact in zip(vars(got).values(), vars(wanted).values(), strict=True):
        torch.testing.assert_close(mine.double(), exact.double(), rtol=1e-5, atol=1e-6)


def test_hard_ce_and_its_compiled_form_are_cross_entropy_with_the_gold_tokens() -> None:
    problem = make_problem(TINY, CPU)
    leaves = [problem.hidden_PD.detach().double(), problem.head.weight.detach().double()]
    for leaf in leaves:
        leaf.requires_grad_()
    logits_PV = leaves[0] @ leaves[1].T
    total = functional.nll_loss(
        logits_PV.log_softmax(-1), problem.positions.labels_P, reduction="sum"
    )
    wanted = Computed(total, *torch.autograd.grad(total, leaves))
    assert_same(loss_arms.hard_ce(problem)(), wanted)
    try:
        compiled = loss_arms.compiled_hard_ce(problem)()
    except RuntimeError as error:
        pytest.skip(f"torch.compile does not run here: {error}")
    assert_same(compiled, wanted)


def test_memory_of_a_process_grows_by_the_logits() -> None:
    shape = Shape(positions=256, vocab_size=20_000, hidden_size=8, num_entries=6)
    row = memory_row(loss.MATMULS, loss_arms.three_matmuls, shape, CPU)
    assert 18.0 < float(row["growth_mb"]) < 30.0  # 256 x 20,000 x 4 bytes are 20.48 MB
    assert row["gradients_mb"] == pytest.approx(8 * (256 + 20_000) * 4 / 1e6)


def test_every_arm_is_timed_or_left_out_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loss, "SHAPE", TINY)
    rows, left_out = loss.time_arms(TINY, CPU, budget_s=0.0)
    assert {row["arm"] for row in rows} | {row["arm"] for row in left_out} == set(loss.ARMS)
    assert "Triton" in str({row["arm"]: row["reason"] for row in left_out}[loss.LIGER])
    assert all(row["turns"] == 1 for row in rows)
    figures = loss.time_figures(rows)
    assert figures.keys() >= {"time_to_hard_ce", "time_to_dense", "time_to_three_matmuls"}
    assert loss.gradient_errors(TINY, CPU).keys() == {"loss", "grad_hidden", "grad_weight"}
    memory = [{"arm": "ours", "positions": 37, "growth_mb": 1.0, "gradients_mb": 1.0}]
    draw_loss(rows, memory, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 0
