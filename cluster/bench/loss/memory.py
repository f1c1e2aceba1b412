"""Memory of an arm of the loss benchmark, measured in a fresh process per arm."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch

from cluster.bench.loss.arms import Arm
from cluster.bench.loss.problem import Problem, Shape, make_problem
from cluster.bench.peak_memory import peak_bytes
from cluster.bench.result import Row

# A first call loads code and starts threads, which is no memory of the loss.
WARM_UP = Shape(positions=32, vocab_size=2_000, hidden_size=32, num_entries=8)


def memory_row(
    name: str, build: Callable[[Problem], Arm], shape: Shape, device: torch.device
) -> Row:
    """One forward and backward pass in a new process: growth of its peak beyond what all share.

    Shared are the states, the weight and their gradients (`gradients_mb`), which every arm hands
    back. What an arm keeps from call to call, as the dense form its rows, does not count either.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as executor:
        growth = executor.submit(peak_growth, build, shape, device, torch.get_num_threads())
        gradients = 4 * shape.hidden_size * (shape.positions + shape.vocab_size)
        return {
            "arm": name,
            "positions": shape.positions,
            "growth_mb": growth.result() / 1e6,
            "gradients_mb": gradients / 1e6,
        }


def peak_growth(
    build: Callable[[Problem], Arm], shape: Shape, device: torch.device, num_threads: int
) -> int:
    """Bytes by which one call of an arm raises the peak of this process."""
    torch.set_num_threads(num_threads)
    build(make_problem(WARM_UP, device))()
    problem = make_problem(shape, device)
    arm = build(problem)
    leaves = (problem.hidden_PD, problem.head.weight)
    gradients = [torch.ones_like(leaf) for leaf in leaves]  # touched, so they are resident
    before = peak_bytes(device)
    del gradients
    arm()
    return peak_bytes(device) - before
