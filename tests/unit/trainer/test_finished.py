"""A run that is finished is not done again, and needs no teacher to say so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import commit
from tests.support.evaluation_fakes import tiny_vocabulary, write_classifier, write_student
from trainer import export, student_run
from trainer.checkpoints import files
from trainer.config.run import RunConfig, TrainConfig
from trainer.models.student_card import STUDENT_CARD_NAME
from trainer.telemetry.run_log import METRICS_NAME

STEPS = 4


def intact(folder: Path) -> files.WholeCheckpoint | None:
    """As one rank alone finds it."""
    while (found := files.newest_whole(folder)) is not None:
        path = folder / files.tag_of(found.step)
        problem = files.find_changed(path, share=0, shares=1)
        if not problem:
            return found
        files.mark_damaged(path, problem)
    return None


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A finished run of one rank, with checkpoints of steps 2 and 4."""
    monkeypatch.setattr(export, "sum_over_ranks", lambda values: [float(it) for it in values])
    monkeypatch.setattr(export, "is_first_rank", lambda: True)
    monkeypatch.setattr(export, "find_newest", files.newest_whole)
    monkeypatch.setattr(export, "find_intact", intact)
    for step in (2, STEPS):
        path = tmp_path / files.CHECKPOINTS_NAME / files.tag_of(step)
        path.mkdir(parents=True)
        (path / "weights.pt").write_bytes(b"weights")
        commit(tmp_path / files.CHECKPOINTS_NAME, step, ranks=1, keep=2)
    write_student(tmp_path / "model", tiny_vocabulary(), seed=1)
    return RunConfig(data="data", output=str(tmp_path), train=TrainConfig(steps=STEPS))


def finished(config: RunConfig, **train: Any) -> bool:
    changed = dataclasses.replace(config, train=dataclasses.replace(config.train, **train))
    return export.is_finished(changed, Path(config.output) / "model")


def test_run_with_its_last_checkpoint_and_its_model_is_finished(config: RunConfig) -> None:
    assert finished(config)
    assert not finished(config, resume=False)
    assert not finished(config, steps=STEPS + 1)
    (Path(config.output) / "model" / STUDENT_CARD_NAME).unlink()
    assert not finished(config)


def test_run_whose_model_its_readers_would_refuse_exports_it_again(config: RunConfig) -> None:
    folder = Path(config.output) / "model"
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert not finished(config)
    weights.write_bytes(whole)
    assert finished(config)
    card = json.loads((folder / STUDENT_CARD_NAME).read_text())
    del card["files"]
    (folder / STUDENT_CARD_NAME).write_text(json.dumps(card))
    assert not finished(config)


def test_run_that_names_another_classifier_exports_its_model_again(
    config: RunConfig, tmp_path: Path
) -> None:
    write_classifier(tmp_path / "other", tiny_vocabulary(), seed=9)
    changed = dataclasses.replace(config, classifier=str(tmp_path / "other"))
    assert not finished(changed)


def test_run_whose_newest_checkpoint_is_damaged_has_steps_to_do(config: RunConfig) -> None:
    checkpoints = Path(config.output) / files.CHECKPOINTS_NAME
    (checkpoints / files.tag_of(STEPS) / "weights.pt").write_bytes(b"torn...")
    assert not finished(config)
    newest = files.newest_whole(checkpoints)
    assert newest is not None and newest.step == 2


def test_finished_run_says_so_before_teachers_are_asked(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(student_run, "start_distributed", lambda *_: None)
    monkeypatch.setattr(student_run, "stop_distributed", lambda: None)
    monkeypatch.setattr(student_run, "on_first_rank", lambda action: action())
    data: Any = None

    def connect(*_: object) -> None:
        raise AssertionError("no teacher is needed")

    student_run.run_student(config, data, connect)
    said = capsys.readouterr().out
    assert said.startswith(f"the run in {config.output} is finished: all 4 steps are done")
    assert said.count("\n") == 1


@pytest.fixture
def ended(config: RunConfig) -> RunConfig:
    """The run of eight steps that one validation without a better one ended after step 4."""
    lines = [{"event": "valid", "step": step, "nll": nll} for step, nll in ((2, 3.0), (STEPS, 3.5))]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (Path(config.output) / METRICS_NAME).write_text(text)
    train = TrainConfig(steps=2 * STEPS, select="best", patience=1)
    return dataclasses.replace(config, train=train)


def test_run_that_patience_ended_is_finished(ended: RunConfig) -> None:
    assert finished(ended)
    assert not finished(ended, patience=2)
    assert not finished(ended, patience=None)
    (Path(ended.output) / METRICS_NAME).write_text("no line of a log\n\n")
    assert not finished(ended)


def test_run_that_patience_ended_is_told_from_one_that_did_all_steps(
    ended: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    student_run.say_finished(ended, Path("model"))
    said = capsys.readouterr().out
    assert "finished: train.patience ended it after step 4 of 8, and its model is in model" in said
    assert said.endswith("Start over with train.resume=false.\n")
