from __future__ import annotations

from pathlib import Path

import pytest

from cluster.head.filling import FOLDERS, Place, filled
from cluster.head.shared import SharedFolder
from trainer.common.errors import MissingError
from trainer.config.run import RunConfig
from trainer.config.yaml_file import setting_names


def place(root: Path) -> Place:
    return Place(
        shared=SharedFolder(root=root), head_address="10.0.0.1", credentials=Path("/home/me/tls")
    )


def test_addresses_and_credentials_are_filled_in(tmp_path: Path) -> None:
    assert filled("run", {}, (), place(tmp_path)) == [
        f"output={tmp_path}/runs/run",
        "teachers.directory=10.0.0.1:50051",
        "teachers.tls=/home/me/tls",
        "teachers.token_file=/home/me/tls/token",
        "teachers.patience_s=600",
    ]


def test_what_is_given_stays_but_for_the_output(tmp_path: Path) -> None:
    given = {"teachers.patience_s", "teachers.directory", "output"}
    keys = [it.partition("=")[0] for it in filled("run", {}, given, place(tmp_path))]
    assert keys == ["output", "teachers.tls", "teachers.token_file"]


def test_folders_of_the_laptop_become_those_of_the_shared_folder(tmp_path: Path) -> None:
    for name in ("data/redial", "teachers/classifier"):
        (tmp_path / name).mkdir(parents=True)
    folders = {"data": "build/redial", "classifier": "build/classifier", "knowledge": None}
    assert filled("run", folders, (), place(tmp_path))[:2] == [
        f"data={tmp_path}/data/redial",
        f"classifier={tmp_path}/teachers/classifier",
    ]


def test_absolute_folder_is_left_alone(tmp_path: Path) -> None:
    filling = filled("run", {"data": "/elsewhere"}, (), place(tmp_path))
    assert not any(it.startswith("data=") for it in filling)


def test_folder_that_was_not_sent_names_the_command_that_sends_it(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="python -m cluster push build/redial"):
        filled("run", {"data": "build/redial"}, (), place(tmp_path))


def test_all_that_is_filled_in_are_settings(tmp_path: Path) -> None:
    keys = {it.partition("=")[0] for it in filled("run", {}, (), place(tmp_path))}
    assert keys | set(FOLDERS) <= set(setting_names(RunConfig))
