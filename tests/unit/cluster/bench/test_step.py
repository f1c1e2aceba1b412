from __future__ import annotations

import itertools

import numpy as np
import pytest

from cluster.bench.step.arms import (
    CACHED,
    GROUPED,
    IN_PROCESS,
    NO_TEACHER,
    SERVED,
    SINGLE,
    pass_builders,
)
from cluster.bench.step.bench import arm_rows, figures_of
from cluster.bench.step.passes import ratios_of, sequence_figures
from cluster.bench.step.ranks import arms_of_turn, widest_step
from tests.support.chain_examples import dialogues
from trainer.config.run import RunConfig, TrainConfig
from trainer.data.chains import input_length
from trainer.data.examples import Example
from trainer.data.loader import LoaderConfig, batches

SECONDS = {NO_TEACHER: 10.0, SERVED: 10.2, CACHED: 10.1, IN_PROCESS: 20.0}
CPU_SECONDS = {NO_TEACHER: 20.0, SERVED: 20.1, CACHED: 20.2, IN_PROCESS: 40.0}


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
        "ranks_cpu_s": CPU_SECONDS[arm] * slowness,
        "machine_cpu_s": 2.0 * CPU_SECONDS[arm] * slowness,
        "peak_mb": peak_mb,
    }


def test_step_ratios_are_of_blocks_of_one_turn_and_leave_the_warm_up_out() -> None:
    # A machine that gets slower from turn to turn changes no ratio; the warm-up is slower by far.
    rows = [block(0, arm, 9.0) for arm in SECONDS]
    # The arm in process is not in every turn.
    turns = [(1, list(SECONDS)), (2, [NO_TEACHER, SERVED, CACHED]), (3, list(SECONDS))]
    rows += [block(turn, arm, 1.0 + turn) for turn, arms in turns for arm in arms]
    figures = figures_of(rows)
    assert figures["turns"] == 3
    assert figures["served_to_no_teacher"] == pytest.approx(10.0 / 10.2)
    assert figures["cached_to_no_teacher"] == pytest.approx(10.0 / 10.1)
    assert figures["in_process_to_no_teacher"] == pytest.approx(0.5)
    assert figures["served_ranks_cpu_to_no_teacher"] == pytest.approx(20.1 / 20.0)
    assert figures["served_ranks_cpu_to_no_teacher_max"] == pytest.approx(20.1 / 20.0)
    assert figures["cached_machine_cpu_to_no_teacher"] == pytest.approx(20.2 / 20.0)
    assert figures["exposed_wait_fraction"] == pytest.approx(0.005)
    peaks = [figures[f"peak_mb_{name}"] for name in ("no_teacher", "served", "in_process")]
    assert peaks == [5_000.0, 5_010.0, 6_500.0]
    table = {row["arm"]: row for row in arm_rows(rows)}
    assert table[NO_TEACHER]["tokens_per_s"] == pytest.approx(100.0)
    assert table[SERVED]["blocks"] == 3
    assert table[IN_PROCESS]["blocks"] == 2


def test_step_ratio_of_the_machines_cpu_is_left_out_where_it_is_hidden() -> None:
    rows = [block(turn, arm) | {"machine_cpu_s": 0.0} for turn in (0, 1) for arm in SECONDS]
    figures = figures_of(rows)
    assert figures["served_ranks_cpu_to_no_teacher"] == pytest.approx(20.1 / 20.0)
    assert not [name for name in figures if "machine" in name]


def test_step_arms_come_first_in_turn_and_the_one_in_process_comes_seldom() -> None:
    names = [NO_TEACHER, SERVED, CACHED, IN_PROCESS]
    turns = [arms_of_turn(turn, names) for turn in range(1, 13)]
    assert [sum(order[0] == name for order in turns) for name in names] == [4, 4, 4, 0]
    with_in_process = [order for order in turns if IN_PROCESS in order]
    assert {order[0] for order in with_in_process} == {NO_TEACHER, SERVED, CACHED}
    assert len(with_in_process) == 3
    assert all(order[-1] == IN_PROCESS for order in with_in_process)
    assert all(set(order) >= {NO_TEACHER, SERVED, CACHED} for order in turns)


def test_step_arms_of_which_none_is_in_process_take_plain_turns() -> None:
    turns = [arms_of_turn(turn, [SINGLE, GROUPED]) for turn in range(1, 5)]
    assert turns == [[GROUPED, SINGLE], [SINGLE, GROUPED]] * 2


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
        for batch in itertools.islice(batches(examples, loader), num_steps):
            of_rank = max(len(each.context_ids) for each in batch.examples)
            longest[batch.step] = max(longest.get(batch.step, 0), of_rank)
    step = widest_step(examples, config, num_steps)
    assert longest[step] == max(longest.values())


def test_ratio_of_two_forms_is_of_the_seconds_of_one_turn() -> None:
    rows = [
        {"turn": turn, "arm": arm, "seconds": seconds * (1 + turn)}
        for turn in (0, 1, 2)
        for arm, seconds in ((SINGLE, 5.0 if turn else 99.0), (GROUPED, 2.0))
    ]
    assert ratios_of(rows, GROUPED, SINGLE) == pytest.approx([2.5, 2.5])


def test_tokens_per_position_are_those_of_the_batches_of_an_epoch() -> None:
    # Chains of 1, 2 and 3 responses; the last input of each holds the others.
    examples = dialogues([1, 2, 3])
    figures = sequence_figures(examples, batch_size=6)
    positions = sum(len(each.response_ids) for each in examples)
    last = [examples[index] for index in (0, 2, 5)]
    assert figures["tokens_per_position"] * positions == pytest.approx(sum(map(input_length, last)))
    single = figures["tokens_per_position_single"] * positions
    assert single == pytest.approx(sum(map(input_length, examples)))
    slots = 3 * max(map(input_length, last))
    assert figures["grouped_padding"] == pytest.approx(1 - sum(map(input_length, last)) / slots)


def test_arms_of_the_passes_have_no_teacher_and_no_action_tokens() -> None:
    config = RunConfig(data="", output="")
    arms = {name: build() for name, build in pass_builders(config).items()}
    assert {name: arm.merges for name, arm in arms.items()} == {SINGLE: False, GROUPED: True}
    assert all(arm.teachers is None for arm in arms.values())
    assert all(arm.config.distill.gamma == 0 for arm in arms.values())
    assert not any(arm.config.action_tokens for arm in arms.values())
