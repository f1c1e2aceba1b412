from __future__ import annotations

import dataclasses

import pytest
import torch

from cluster.bench.loss import arms as loss_arms
from cluster.bench.loss import bench as loss
from cluster.bench.loss.arms import Computed
from cluster.bench.loss.problem import Shape, make_problem, whole_rows

CPU = torch.device("cpu")
TINY = Shape(positions=37, vocab_size=300, hidden_size=8, num_entries=6)


def assert_same(got: Computed, wanted: Computed) -> None:
    for mine, exact in zip(vars(got).values(), vars(wanted).values(), strict=True):
        torch.testing.assert_close(mine.double(), exact.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tail", [0.0, 0.25])
def test_ours_is_the_float64_twin(tail: float) -> None:
    problem = make_problem(TINY, CPU, tail=tail)
    assert_same(loss_arms.ours(problem)(), loss_arms.exact_gradients(problem, chunk_size=10))


def test_ours_is_the_dense_form_where_teachers_send_all_they_have() -> None:
    problem = make_problem(TINY, CPU, tail=0.0)
    assert_same(loss_arms.ours(problem)(), loss_arms.dense(problem)())


def test_teachers_of_the_problem_are_distributions_on_their_support() -> None:
    problem = make_problem(TINY, CPU)
    dialogue_PV = whole_rows(problem.targets["dialogue"], range(300), CPU)
    assert problem.items == range(264, 300)  # 300 * 6924 / 57184 = 36.3
    torch.testing.assert_close(dialogue_PV.sum(-1), torch.ones(37))
    item_mass_P = torch.from_numpy(problem.targets["dialogue"].item_mass_R)
    torch.testing.assert_close(dialogue_PV[:, 264:].sum(-1), item_mass_P, atol=0.03, rtol=0.0)
    recommendation_BN = whole_rows(problem.targets["recommendation"], problem.items, CPU)
    torch.testing.assert_close(recommendation_BN.sum(-1), torch.ones(3))  # 37 / 16, rounded up


def test_matmul_arms_are_three_products() -> None:
    problem = make_problem(TINY, CPU)
    hidden_PD, weight_VD = problem.hidden_PD.detach(), problem.head.weight.detach()
    for build in (loss_arms.three_matmuls, loss_arms.three_matmuls_kept):
        got = build(problem)()
        assert got.loss is None
        wanted_PD = hidden_PD @ (weight_VD.T @ weight_VD)
        wanted_VD = weight_VD @ (hidden_PD.T @ hidden_PD)
        torch.testing.assert_close(got.grad_hidden_PD, wanted_PD, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got.grad_weight_VD, wanted_VD, rtol=1e-4, atol=1e-4)


def test_the_first_turn_counts_only_where_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loss, "ARMS", {loss.OURS: loss_arms.ours, loss.DENSE: loss_arms.dense})
    monkeypatch.setattr(loss, "MAX_TURNS", 3)
    times = iter([9.0, 9.0, 2.0, 1.0, 2.0, 4.0, 1.0, 4.0])  # the arms begin in turn
    monkeypatch.setattr(loss, "_seconds", lambda arm, device: next(times))
    rows, _ = loss.time_arms(TINY, CPU, budget_s=60.0)
    assert [row["turns"] for row in rows] == [3, 3]
    # Ours 1, 2, 4 and the dense form 2, 4, 1 seconds.
    assert [row["ours_to_it"] for row in rows] == [1.0, 0.5]
    assert rows[1]["ours_to_it_max"] == 4.0


def test_too_large_names_what_is_needed() -> None:
    assert loss.too_large(loss.DENSE, TINY, CPU) is None
    huge = dataclasses.replace(TINY, positions=10**12)
    # 6 arrays of 10^12 x 300 numbers of 4 bytes.
    assert str(loss.too_large(loss.DENSE, huge, CPU)).startswith("needs 7200000.0 GB, ")


def test_memory_figures_are_ratios_of_growth() -> None:
    memory = [
        {"arm": arm, "positions": positions, "growth_mb": growth, "gradients_mb": 180.0}
        for arm, positions, growth in (
            (loss.OURS, 512, 50.0),
            (loss.OURS, 2_048, 60.0),
            (loss.OURS, 8_192, 75.0),
            (loss.DENSE, 2_048, 1_820.0),
        )
    ]
    assert loss.memory_figures(memory) == {
        "memory_to_dense": pytest.approx(60 / 1_820),
        "memory_to_dense_with_gradients": pytest.approx(240 / 2_000),
        "memory_8192_to_512": 1.5,
    }
    # Where the dense form did not fit, nothing is said of it.
    assert loss.memory_figures(memory[:3]) == {"memory_8192_to_512": 1.5}
