from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.little_room import little_room
from tests.support.step_metrics import step
from trainer.telemetry.run_log import METRICS_NAME, RunLog, tag_of
from trainer.telemetry.step_metrics import STEP_METRICS, TEACHER_METRICS


def line(number: int) -> dict[str, Any]:
    return step(0.5, 0.1, number=number) | {"loss": 2.0, "teacher_wait_s": None, "loss_scale": 1.0}


def test_log_without_room_keeps_its_error_for_all_ranks_and_writes_no_more(tmp_path: Path) -> None:
    log = RunLog(tmp_path, total_steps=9, first_step=0)
    log.start({"world_size": 1})
    log.step(line(1))
    path = tmp_path / METRICS_NAME
    with little_room(path.stat().st_size + 40):
        log.step(line(2))
        log.valid(2, 3.5)
    told = str(log.problem)
    log.step(line(3))
    log.close()
    assert f"{path} must take a line about step 2, got: [Errno 27]" in told
    assert str(log.problem) == told
    lines = path.read_text().splitlines()
    assert [json.loads(each).get("step") for each in lines[:2]] == [None, 1]
    # The start of the line that had no room is all there is of it, and a resumed run passes it by.
    assert len(lines) <= 3
    again = RunLog(tmp_path, total_steps=9, first_step=1)
    again.close()
    assert len(path.read_text().splitlines()) == 2


def test_log_with_room_has_no_problem(tmp_path: Path) -> None:
    log = RunLog(tmp_path, total_steps=9, first_step=0)
    log.step(line(1))
    log.valid(1, 3.5)
    log.close()
    assert log.problem is None
    entries = [json.loads(each) for each in (tmp_path / METRICS_NAME).read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 1]
    assert entries[1]["nll"] == pytest.approx(3.5)


def test_every_number_has_a_group_in_tensorboard() -> None:
    keys = [it.name for it in (*STEP_METRICS, *TEACHER_METRICS)]
    tags = {key: tag_of(key) for key in [*keys, "valid_nll"]}
    assert tags["loss_scale"] == "optimiser/loss_scale"
    assert tags["valid_nll"] == "loss/valid_nll"
    assert tags["gate_item_steps"] == "gate/gate_item_steps"
    groups = {tag.partition("/")[0] for tag in tags.values()}
    assert groups == {"loss", "optimiser", "speed", "gate", "closeness", "cache", "teachers"}
    assert tags["dialogue_student_mass"] == "closeness/dialogue_student_mass"
    assert tags["dialogue_entropy"] == "teachers/dialogue_entropy"
    assert {key for key, tag in tags.items() if tag.startswith("loss/")} == {
        *("loss", "nll", "valid_nll", "gamma", "temperature")
    }
