"""What a replica checks before it serves: that its folder holds the teacher that `up` found."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from teacher_server.fleet.pins import Pin, check_pin, pin_of
from teacher_server.fleet.scaling import ReplicaRange
from teacher_server.fleet.status import KindStatus, problem_of
from tests.support import tiny_teachers
from trainer.common.errors import InputError
from trainer.models.frozen import CONFIG_NAME, read_card

PIN = Pin(
    weights_digest="aa",
    vocabulary_digest="v",
    graph_digest="",
    config_digest="c",
    temperature=1.0,
    dtype="float32",
)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"weights_digest": "bb"}, "weights_digest bb instead of aa"),
        ({"vocabulary_digest": "w"}, "vocabulary_digest w instead of v"),
        ({"graph_digest": "g"}, "graph_digest g instead of none"),
        ({"config_digest": ""}, "config_digest none instead of c"),
        ({"temperature": 2.0}, r"temperature 2\.0 instead of 1\.0"),
        ({"dtype": "bf16"}, "dtype bf16 instead of float32"),
    ],
)
def test_folder_that_was_exported_anew_is_refused_with_what_differs(
    change: dict[str, str | float], got: str
) -> None:
    other = dataclasses.replace(PIN, **change)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=rf"build/d must be the one .* got {got}\. Put .* roll --teacher "
    ):
        check_pin("dialogue", "build/d", dataclasses.asdict(PIN), other)


def test_same_teacher_and_a_fleet_without_a_pin_are_taken() -> None:
    check_pin("dialogue", "build/d", dataclasses.asdict(PIN), dataclasses.replace(PIN))
    check_pin("dialogue", "build/d", {}, PIN)


def test_pin_of_a_folder_sees_a_change_of_its_config_that_leaves_the_weights(
    tmp_path: Path,
) -> None:
    tiny_teachers.write_dialogue_teacher(tmp_path, tiny_teachers.tiny_vocabulary())
    card = read_card(tmp_path, "dialogue")
    before = pin_of(card, tmp_path, "float32")
    # As in the fleet's file, and back.
    check_pin("dialogue", tmp_path, json.loads(json.dumps(dataclasses.asdict(before))), before)
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config | {"n_head": 1}))
    after = pin_of(card, tmp_path, "float32")
    assert after.weights_digest == before.weights_digest
    with pytest.raises(InputError, match="got config_digest"):
        check_pin("dialogue", tmp_path, dataclasses.asdict(before), after)


def test_status_tells_why_a_replica_does_not_start() -> None:
    def of(message: str) -> KindStatus:
        return KindStatus(
            state="RUNNING",
            message=message,
            target=1,
            replica_range=ReplicaRange.of(1),
            scaling=None,
            is_autoscaled=False,
            replicas={},
        )

    # Serve's own words.
    failed = "A replica failed to start with exception. Retrying. Error:\nray::x()\nInputError: y\n"
    assert problem_of(of(failed)) == "InputError: y"
    assert problem_of(of("Upscaling from 1 to 2 replicas.")) == ""
