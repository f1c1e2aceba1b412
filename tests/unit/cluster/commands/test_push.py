from __future__ import annotations

from pathlib import Path

import pytest

from cluster.commands.push import DATA_FILE, TEACHER_FILE, checked
from trainer.common.errors import InputError, MissingError
from trainer.data.manifest import MANIFEST_NAME


def folder(path: Path, *names: str) -> Path:
    path.mkdir(parents=True)
    for name in names:
        (path / name).write_text("{}")
    return path


def test_prepared_data_is_known_by_its_manifest_and_a_teacher_by_its_config(tmp_path: Path) -> None:
    assert DATA_FILE == MANIFEST_NAME
    data = folder(tmp_path / "redial", DATA_FILE)
    teacher = folder(tmp_path / "dialogue", TEACHER_FILE)
    assert checked([data, teacher]) == {data: "data", teacher: "teachers"}


def test_relative_folder_has_the_name_of_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder(tmp_path / "redial", DATA_FILE)
    monkeypatch.chdir(data)
    assert checked([Path()]) == {data: "data"}


def test_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be prepared data"):
        checked([folder(tmp_path / "x", "README.md")])
    with pytest.raises(MissingError, match="must be a folder"):
        checked([tmp_path / "absent"])
    with pytest.raises(InputError, match="name must be"):
        checked([folder(tmp_path / "a b", DATA_FILE)])


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    both = [folder(tmp_path / it / "same", DATA_FILE) for it in "ab"]
    with pytest.raises(InputError, match="got two of same"):
        checked(both)
