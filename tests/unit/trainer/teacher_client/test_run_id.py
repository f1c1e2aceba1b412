from __future__ import annotations

import pytest

from protos.limits import RUN_ID
from trainer.teacher_client.run_id import new_run_id


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("runs/redial_1.b", "redial_1.b"),
        ("runs/two words/", "two-words"),
        ("runs/Größe", "Gr-e"),
        ("/", "run"),
        ("x" * 100, "x" * 32),
    ],
)
def test_run_id_has_the_name_of_the_folder_as_far_as_it_may(folder: str, name: str) -> None:
    run_id = new_run_id(folder)
    assert RUN_ID.fullmatch(run_id)
    assert run_id.rpartition("-")[0] == name


def test_run_id_of_the_same_folder_is_another_one_each_time() -> None:
    assert new_run_id("runs/a") != new_run_id("runs/a")
