from __future__ import annotations

import itertools

import numpy as np
import pytest

from cluster.bench.step import arm_rows, figures_of
from cluster.bench.step_ranks import CACHED, IN_PROCESS, NO_TEACHER, SERVED, widest_step
from trainer.config import RunConfig, TrainConfig
from trainer.data.examples import Example
from trainer.data.loader import LoaderConfig, batches

SECONDS = {NO_TEACHER: 10.0, SERVED: 10.2, CACHED: 10.1, IN_PROCESS: 20.0}


def block(turn: int, arm: str, slowness: float = 1.0) -> dict:
    wait_s = 0.051 if arm == SERVED else 0.0
    peak_mb = {NO_TEACHER: 5_000.0, SERVED: 5_010.0, CACHED: 5_020.0, IN_PROCESS: 6_500.0}[arm]
    seconds = SECONDS[arm] * slowness
    return {
        "turn": turn,
        "arm": arm,
        "seconds": seconds,
        "tokens": 3_000.0,
        "wait_s": wait_s * slowness,
        "peak_mb": peak_mb,
    }


def test_step_ratios_are_of_blocks_of_one_turn_and_leave_the_warm_up_out() -> None:
    # A machine that gets slower from turn to turn changes no ratio; the warm-up is slower by far.
    rows = [block(0, arm, 9.0) for arm in SECONDS]
    rows += [block(turn, arm, 1.0 + turn) for turn in (1, 2, 3) for arm in SECONDS]
    figures = figures_of(rows)
    assert figures["turns"] == 3
    assert figures["served_to_no_teacher"] == pytest.approx(10.0 / 10.2)
    assert figures["cached_to_no_teacher"] == pytest.approx(10.0 / 10.1)
    assert figures["in_process_to_no_teacher"] == pytest.approx(0.5)
    assert figures["exposed_wait_fraction"] == pytest.approx(0.005)
    assert (figures["peak_mb_no_teacher"], figures["peak_mb_in_process"]) == (5_000.0, 6_500.0)
    table = {row["arm"]: row for row in arm_rows(rows)}
    assert table[NO_TEACHER]["tokens_per_s"] == pytest.approx(100.0)
    assert table[SERVED]["blocks"] == 3


@pytest.mark.parametrize("num_steps", [3, 16])
def test_widest_step_has_the_longest_example_of_all_ranks_in_so_many_steps(num_steps: int) -> None:
    nothing = np.empty(0, np.int32)
    examples = [
        Example(str(n), np.arange(10 + n, dtype=np.int32), nothing, nothing, nothing, nothing)
        for n in range(64)
    ]
    config = RunConfig(data="", output="", train=TrainConfig(batch_size=4))
    longest = {}
    for rank in (0, 1):
        loader = LoaderConfig(batch_size=4, seed=config.seed, rank=rank, world_size=2)
        for batch, _ in itertools.islice(batches(examples, loader), num_steps):
            of_rank = max(len(each.context_ids) for each in batch.examples)
            longest[batch.step] = max(longest.get(batch.step, 0), of_rank)
    step = widest_step(examples, config, num_steps)
    assert longest[step] == max(longest.values())
