from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from cluster.commands.train import checked_name, head_command
from trainer.common.errors import InputError

ROOT = Path(__file__).resolve().parents[4]
CONFIG = ROOT / "trainer" / "configs" / "synthetic.yaml"


def given(**changes: Any) -> argparse.Namespace:
    options = {
        **{"config": CONFIG, "name": None, "nodes": 2, "min_nodes": None, "slots": None},
        "overrides": ["train.steps=5"],
    }
    return argparse.Namespace(**{**options, **changes})


def test_run_is_named_as_its_output_so_that_the_same_command_goes_on() -> None:
    assert checked_name(given()) == "synthetic"
    assert checked_name(given(overrides=["output=runs/other"])) == "other"
    assert checked_name(given(name="mine")) == "mine"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overrides": ["train.stepps=5"]}, "train.stepps"),
        ({"overrides": ["output=runs/a b"]}, "output must end in"),
        ({"min_nodes": 3}, "--min-nodes must be at most --nodes 2, got 3"),
    ],
)
def test_mistake_is_found_on_the_laptop(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        checked_name(given(**changes))


def test_command_on_the_head_has_what_was_given_and_nothing_else() -> None:
    assert head_command(given(), "run") == [
        *("train", "--name", "run", "--nodes", "2", "--", "train.steps=5"),
    ]
    assert head_command(given(min_nodes=1, slots=4), "run") == [
        *("train", "--name", "run", "--nodes", "2", "--min-nodes", "1", "--slots", "4"),
        *("--", "train.steps=5"),
    ]
