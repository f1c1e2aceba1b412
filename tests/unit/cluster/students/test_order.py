"""On how many nodes a run can be, and with which settings its ranks start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.students.order import RunOrder, check_sizes, largest_fit
from trainer.common.errors import InputError
from trainer.config.run import RunConfig, TrainConfig


def config(batch_size: int, micro: int | None = None) -> RunConfig:
    train = TrainConfig(batch_size=batch_size, micro_batch_size=micro)
    return RunConfig(data="d", output="o", train=train)


@pytest.mark.parametrize(
    ("batch_size", "micro", "slots", "nodes", "expected"),
    [
        (32, None, 1, 4, 4),
        (32, None, 1, 3, 2),
        (32, None, 4, 7, 4),
        (30, None, 1, 4, 3),
        # A share of 6 examples cannot be cut in forwards of 4.
        (24, 4, 1, 4, 3),
        (7, None, 2, 5, 0),
        (32, None, 1, 0, 0),
    ],
)
def test_largest_number_of_nodes_whose_ranks_share_the_batch(
    batch_size: int, micro: int | None, slots: int, nodes: int, expected: int
) -> None:
    assert largest_fit(config(batch_size, micro), slots=slots, nodes=nodes) == expected


ORDER = RunOrder(
    name="run",
    id="1",
    folder="/shared/runs/run",
    config="/shared/runs/run/given.yaml",
    overrides=("data=/shared/data", "train.resume=false"),
    nodes=2,
    min_nodes=1,
    slots=1,
    wait_s=10.0,
)


def test_attempt_after_a_loss_goes_on_from_the_checkpoint_of_a_run_that_started_over() -> None:
    first, again = ORDER.argv(goes_on=False), ORDER.argv(goes_on=True)
    assert first[-3:] == ("data=/shared/data", "train.resume=false", "output=/shared/runs/run")
    assert again == (*first, "train.resume=true")


def test_fewest_nodes_must_be_no_more_than_all() -> None:
    with pytest.raises(InputError, match="--min-nodes must be at most --nodes, got 3 and 2"):
        check_sizes(config(32), replace(ORDER, min_nodes=3))


def test_ranks_that_do_not_share_the_batch_are_refused_before_any_work() -> None:
    with pytest.raises(InputError, match="divisible by the number of ranks, got 32 and 6"):
        check_sizes(config(32), replace(ORDER, nodes=2, slots=3))


def test_settings_are_read_from_the_copy_in_the_runs_folder(tmp_path: Path) -> None:
    given = tmp_path / "given.yaml"
    given.write_text("train: {batch_size: 8}\n")
    read = replace(ORDER, folder=str(tmp_path), config=str(given)).run_config()
    assert (read.train.batch_size, read.output, read.train.resume) == (8, str(tmp_path), False)
