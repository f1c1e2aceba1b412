"""What does the fused loss cost in time, memory and accuracy beside the ways it replaces?

Forward and backward at a student's real shape, arm after arm, turn by turn: the fused two-teacher
loss, hard-label cross entropy, the dense two-teacher form, and the bare three matrix products that
no loss can do without. Every ratio is ours over the other of the same turn. Memory is the growth of
a process of its own per arm. Random states and teachers, so no corpus is needed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from cluster.bench.loss import arms as loss_arms
from cluster.bench.loss.arms import Arm, exact_gradients, ours
from cluster.bench.loss.memory import memory_row
from cluster.bench.loss.problem import Problem, Shape, make_problem
from cluster.bench.peak_memory import available_bytes
from cluster.bench.plots import draw_loss
from cluster.bench.result import RESULTS, BenchResult, Row
from trainer.common.errors import first_line
from trainer.common.machine import num_cpus

SHAPE = Shape(positions=2_048)
SHORT, LONG = Shape(positions=512), Shape(positions=8_192)
# Seconds of turns, the warm-up among them; together with the rest they end within 10 minutes.
BUDGET_S = {SHORT: 30.0, SHAPE: 165.0, LONG: 90.0}
MAX_TURNS = 15

OURS, HARD_CE, DENSE = "ours", "hard CE", "dense"
MATMULS, MATMULS_KEPT = "three matmuls", "three matmuls, kept buffer"
COMPILED, LIGER = "hard CE, compiled", "hard CE, Liger"
ARMS: dict[str, Callable[[Problem], Arm]] = {
    OURS: ours,
    HARD_CE: loss_arms.hard_ce,
    DENSE: loss_arms.dense,
    MATMULS: loss_arms.three_matmuls,
    MATMULS_KEPT: loss_arms.three_matmuls_kept,
    COMPILED: loss_arms.compiled_hard_ce,
    LIGER: loss_arms.liger_hard_ce,
}
# Others' kernels may lack their compiler or their device, and are tried before anything is timed.
OTHERS = (COMPILED, LIGER)
# float32 arrays of [positions, vocabulary] that an arm may hold at once.
NUM_ARRAYS = {HARD_CE: 4, DENSE: 6, MATMULS: 1, MATMULS_KEPT: 1, COMPILED: 4, LIGER: 1}


def bench_loss(_source: Path | None) -> BenchResult:
    """Time the arms at three numbers of positions, then their memory, then our error."""
    torch.set_num_threads(min(psutil.cpu_count(logical=False) or 1, num_cpus()))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[Row] = []
    left_out: list[Row] = []
    for shape, budget_s in BUDGET_S.items():
        timed, untimed = time_arms(shape, device, budget_s=budget_s)
        rows += timed
        left_out += untimed
    memory = [memory_row(OURS, ours, shape, device) for shape in BUDGET_S]
    ran = {row["arm"] for row in rows if row["positions"] == SHAPE.positions}
    memory += [memory_row(arm, ARMS[arm], SHAPE, device) for arm in ARMS if arm in ran - {OURS}]
    draw_loss(rows, memory, RESULTS / "loss.png")
    accuracy: Row = {"twin": "dense float64", **vars(SHAPE), **gradient_errors(SHAPE, device)}
    return BenchResult(
        figures={
            **time_figures(rows),
            **memory_figures(memory),
            "grad_rel_error": max(float(accuracy[name]) for name in ("grad_hidden", "grad_weight")),
        },
        rows=rows,
        corpus="none: random states and teachers",
        details={"memory": memory, "accuracy": [accuracy], "left_out": left_out},
    )


def time_arms(
    shape: Shape, device: torch.device, *, budget_s: float
) -> tuple[list[Row], list[Row]]:
    """Median seconds per arm and the ratios of ours to it; and which arms did not run, and why."""
    arms, left_out = _running(make_problem(shape, device), shape)
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    start = time.perf_counter()
    for turn in range(1 + MAX_TURNS):
        if turn and (time.perf_counter() - start) * (turn + 1) / turn > budget_s:
            break
        # Each arm starts a turn in its time, so none always follows the same one after a pause.
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(_seconds(arms[name], device))
    # The first turn warms up, and counts only where a slow machine has time for no other.
    counted = {name: seconds[1:] or seconds for name, seconds in times.items()}
    return [_time_row(shape, name, counted) for name in names], left_out


def _running(problem: Problem, shape: Shape) -> tuple[dict[str, Arm], list[Row]]:
    """The arms that fit in memory and run here, and why the others do not."""
    arms: dict[str, Arm] = {}
    left_out: list[Row] = []
    for name, build in ARMS.items():
        if name == MATMULS_KEPT and shape != SHAPE:
            continue  # it explains one figure
        reason = too_large(name, shape, problem.hidden_PD.device)
        if reason is None:
            try:
                arms[name] = _tried(build(problem)) if name in OTHERS else build(problem)
                continue
            except (ImportError, RuntimeError) as error:
                if name not in OTHERS:
                    raise
                reason = f"{type(error).__name__}: {first_line(error)}"
        left_out.append({"arm": name, "positions": shape.positions, "reason": reason})
    return arms, left_out


def _tried(arm: Arm) -> Arm:
    arm()
    return arm


def too_large(name: str, shape: Shape, device: torch.device) -> str | None:
    """Why an arm is not even tried, or None: it should fit."""
    needed = NUM_ARRAYS.get(name, 0) * shape.positions * shape.vocab_size * 4
    available = available_bytes(device)
    if needed <= 0.9 * available:
        return None
    return f"needs {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are available"


def _seconds(arm: Arm, device: torch.device) -> float:
    start = time.perf_counter()
    arm()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _time_row(shape: Shape, name: str, times: dict[str, list[float]]) -> Row:
    ratios = [mine / other for mine, other in zip(times[OURS], times[name], strict=True)]
    return {
        "positions": shape.positions,
        "arm": name,
        "seconds": statistics.median(times[name]),
        "ours_to_it": statistics.median(ratios),
        "ours_to_it_min": min(ratios),
        "ours_to_it_max": max(ratios),
        "turns": len(ratios),
    }


def gradient_errors(shape: Shape, device: torch.device) -> dict[str, float]:
    """Relative errors of our float32 loss and gradients against float64."""
    problem = make_problem(shape, device)
    got, wanted = ours(problem)(), exact_gradients(problem)
    assert got.loss is not None and wanted.loss is not None
    pairs = {
        "loss": (got.loss, wanted.loss),
        "grad_hidden": (got.grad_hidden_PD, wanted.grad_hidden_PD),
        "grad_weight": (got.grad_weight_VD, wanted.grad_weight_VD),
    }
    return {name: float((it.double() - to).norm() / to.norm()) for name, (it, to) in pairs.items()}


def time_figures(rows: list[Row]) -> dict[str, float]:
    """Ours to the arms that ran at the main shape."""
    return {
        "time_to_" + str(row["arm"]).lower().replace(",", "").replace(" ", "_"): float(
            row["ours_to_it"]
        )
        for row in rows
        if row["positions"] == SHAPE.positions and row["arm"] != OURS
    }


def memory_figures(memory: list[Row]) -> dict[str, float]:
    """Our growth over the dense form's, alone and with what both share, and that of our sizes."""
    growth = {(row["arm"], row["positions"]): float(row["growth_mb"]) for row in memory}
    gradients_mb = {row["positions"]: float(row["gradients_mb"]) for row in memory}[SHAPE.positions]
    figures = {"memory_8192_to_512": growth[OURS, LONG.positions] / growth[OURS, SHORT.positions]}
    mine, of_dense = growth[OURS, SHAPE.positions], growth.get((DENSE, SHAPE.positions))
    if of_dense is not None:  # else too large for this machine, and in `left_out`
        with_gradients = (mine + gradients_mb) / (of_dense + gradients_mb)
        figures["memory_to_dense"] = mine / of_dense
        figures["memory_to_dense_with_gradients"] = with_gradients
    return figures
