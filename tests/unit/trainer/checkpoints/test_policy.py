from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from trainer.checkpoints.policy import (
    MAY_CHANGE,
    BestSoFar,
    checkpoints_to_keep,
    exports_to_keep,
    is_due,
    is_due_on_error,
    may_change,
    may_differ_between_ranks,
)
from trainer.checkpoints.provenance import flat_settings
from trainer.config.run import RunConfig, TrainConfig


def test_checkpoint_is_due_at_each_interval_and_at_the_last_step() -> None:
    config = TrainConfig(steps=25, checkpoint_every=10)
    assert [step for step in range(1, 26) if is_due(step, config)] == [10, 20, 25]


@pytest.mark.parametrize(("step", "newest", "due"), [(7, 3, True), (7, 7, False), (0, 0, False)])
def test_error_is_preceded_by_a_checkpoint_only_of_steps_that_none_has(
    step: int, newest: int, due: bool
) -> None:
    assert is_due_on_error(step, newest) == due


@pytest.mark.parametrize(
    ("whole", "keep", "kept"),
    [([], 2, set()), ([10], 2, {10}), ([30, 10, 20], 2, {20, 30}), ([10, 20], 1, {20})],
)
def test_newest_checkpoints_are_kept(whole: list[int], keep: int, kept: set[int]) -> None:
    assert checkpoints_to_keep(whole, keep) == kept


@pytest.mark.parametrize(
    ("exported", "oldest", "kept"),
    [
        ([], 20, set()),
        # The best of checkpoint 20 is 20 itself; of checkpoint 30 it is 20, too.
        ([10, 20, 40], 20, {20, 40}),
        ([10, 20, 40], 30, {20, 40}),
        ([10, 20, 40], 40, {40}),
        # No checkpoint is whole yet.
        ([10, 20], 0, {10, 20}),
    ],
)
def test_best_model_of_every_checkpoint_is_kept(
    exported: list[int], oldest: int, kept: set[int]
) -> None:
    assert exports_to_keep(exported, oldest) == kept


def test_best_so_far_is_the_first_of_the_lowest_and_patience_counts_from_it() -> None:
    best, over = BestSoFar(), []
    for step, nll in ((10, 3.0), (20, 2.0), (30, 2.5), (40, 2.0)):
        best = best.after(step, nll)
        over.append(best.is_over(2))
    assert best == BestSoFar(step=20, nll=2.0, misses=2)
    assert over == [False, False, False, True]
    assert not best.is_over(None)


def test_settings_that_may_change_exist_and_none_of_the_others_may() -> None:
    settings: dict[str, Any] = flat_settings(RunConfig(data="d", output="o"))
    for name in MAY_CHANGE:
        assert any(key == name or (name.endswith(".") and key.startswith(name)) for key in settings)
    groups = {field.name for field in dataclasses.fields(RunConfig)}
    paths = {"output", "data", "classifier", "item_vectors", "knowledge", "deepspeed"}
    assert {key for key in settings if may_change(key)} & groups == paths
    assert {key for key in settings if may_differ_between_ranks(key)} & groups == paths
    for key in ("seed", "train.batch_size", "train.select", "optimiser.learning_rate", "outputs"):
        assert not may_change(key)
