from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from trainer import checkpoint
from trainer.atomic import write_text
from trainer.checkpoint import RunOrigin
from trainer.config import RunConfig, TrainConfig
from trainer.config_file import to_yaml


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


ORIGIN = RunOrigin(ranks=2, vocabulary="v", examples="e", teachers={"dialogue": "d at 1"})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of ten steps with its checkpoint."""
    folder = tmp_path / checkpoint.CHECKPOINTS_NAME
    (folder / checkpoint.tag_of(10)).mkdir(parents=True)
    checkpoint.commit(folder, 10)
    write_text(tmp_path / checkpoint.CONFIG_NAME, to_yaml(RunConfig(data="d", output="o")))
    checkpoint.write_origin(tmp_path, ORIGIN)
    return tmp_path


def test_check_same_run_refuses_a_setting_that_changes_losses_done(run: Path) -> None:
    checkpoint.check_same_run(run, RunConfig(data="d", output="o"))
    longer = RunConfig(data="d", output="elsewhere", train=TrainConfig(steps=77))
    checkpoint.check_same_run(run, longer)
    with pytest.raises(ValueError, match=r"^seed must be 0 to go on .*, got 3"):
        checkpoint.check_same_run(run, RunConfig(data="d", output="o", seed=3))
    with pytest.raises(ValueError, match=r"^train\.batch_size must be"):
        smaller = RunConfig(data="d", output="o", train=TrainConfig(batch_size=4))
        checkpoint.check_same_run(run, smaller)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": 1}, "ranks must be 2 .*, got 1"),
        ({"examples": "others"}, "examples must be e .*, got others"),
        ({"vocabulary": "other"}, "vocabulary must be v"),
        ({"teachers": {"dialogue": "x"}}, r"teachers\.dialogue must be d at 1 .*, got x"),
        ({"teachers": {}}, r"teachers\.dialogue must be d at 1 .*, got None"),
    ],
)
def test_check_same_origin_refuses_other_sources(run: Path, change: dict, message: str) -> None:
    checkpoint.check_same_origin(run, ORIGIN)
    with pytest.raises(ValueError, match=message):
        checkpoint.check_same_origin(run, dataclasses.replace(ORIGIN, **change))


def test_check_same_origin_without_its_file_is_refused_but_a_new_run_is_not(run: Path) -> None:
    (run / checkpoint.ORIGIN_NAME).unlink()
    with pytest.raises(FileNotFoundError, match=r"origin\.json must tell"):
        checkpoint.check_same_origin(run, ORIGIN)
    checkpoint.forget(run / checkpoint.CHECKPOINTS_NAME)
    checkpoint.check_same_origin(run, ORIGIN)
