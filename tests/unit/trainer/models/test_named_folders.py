"""Teachers that are named by their folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from protos.teacher_pb2 import Description
from trainer.common.errors import InputError
from trainer.config.distill import DistillConfig
from trainer.config.named_teachers import NamedTeacher
from trainer.config.run import RunConfig
from trainer.models.frozen import WEIGHTS_NAME, write_card
from trainer.models.named_folders import with_weights_digests


def frozen(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / WEIGHTS_NAME).write_bytes(weights)
    write_card(folder, Description(kind="dialogue"))
    return folder


def config_of(gamma: float = 0.4, **folders: Path) -> RunConfig:
    teachers = {name: NamedTeacher(kind="dialogue", folder=str(it)) for name, it in folders.items()}
    return RunConfig(data="", output="", distill=DistillConfig(gamma=gamma, teachers=teachers))


def test_digest_stands_for_the_folder_wherever_that_lies(tmp_path: Path) -> None:
    one, two = (frozen(tmp_path / name, name.encode()) for name in ("one", "two"))
    teachers = with_weights_digests(config_of(a=one, b=two)).distill.teachers
    assert [it.folder for it in teachers.values()] == [None, None]
    assert len({it.weights_digest for it in teachers.values()}) == 2
    moved = one.rename(tmp_path / "moved")
    again = with_weights_digests(config_of(a=moved, b=two)).distill.teachers
    assert again == teachers


def test_folders_of_the_same_weights_cannot_be_told_apart(tmp_path: Path) -> None:
    one, two = (frozen(tmp_path / name, b"same") for name in ("one", "two"))
    with pytest.raises(InputError, match=r"teachers\.b\.weights_digest must tell it from a"):
        with_weights_digests(config_of(a=one, b=two))


def test_folder_is_read_only_by_a_run_with_teachers(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be a frozen dialogue model"):
        with_weights_digests(config_of(a=tmp_path))
    without = config_of(gamma=0.0, a=tmp_path)
    assert with_weights_digests(without) == without
