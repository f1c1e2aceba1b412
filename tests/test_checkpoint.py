from __future__ import annotations

from pathlib import Path

import pytest

from trainer import checkpoint


def test_checkpoint_commit_names_the_newest_and_removes_the_one_before(tmp_path: Path) -> None:
    assert checkpoint.read_pointer(tmp_path) is None
    for step in (10, 20):
        (tmp_path / checkpoint.tag_of(step)).mkdir()
        checkpoint.commit(tmp_path, step)
    pointer = checkpoint.read_pointer(tmp_path)
    assert pointer is not None
    assert pointer.step == 20
    assert not (tmp_path / checkpoint.tag_of(10)).exists()


def test_checkpoint_that_was_not_committed_is_not_found(tmp_path: Path) -> None:
    (tmp_path / checkpoint.tag_of(10)).mkdir()
    assert checkpoint.read_pointer(tmp_path) is None


def test_checkpoint_that_is_gone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / checkpoint.tag_of(10)).mkdir()
    checkpoint.commit(tmp_path, 10)
    (tmp_path / checkpoint.tag_of(10)).rmdir()
    with pytest.raises(FileNotFoundError, match="step-00000010 must be the newest checkpoint"):
        checkpoint.read_pointer(tmp_path)


def test_checkpoints_that_are_forgotten_are_never_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    (folder / checkpoint.tag_of(10)).mkdir(parents=True)
    checkpoint.commit(folder, 10)
    checkpoint.forget(folder)
    assert checkpoint.read_pointer(folder) is None
    assert not folder.exists()
    checkpoint.forget(folder)
