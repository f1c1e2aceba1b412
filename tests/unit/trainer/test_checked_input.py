"""Mistakes in a student's settings: an error before the ranks meet, and once per node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.evaluation_fakes import write_student
from tests.support.student_runs import TINY
from tests.support.tiny_teachers import tiny_vocabulary, write_recommendation_teacher
from trainer.common.errors import InputError
from trainer.export import _build
from trainer.main import main, parse
from trainer.student_run import checked_input

CONFIG = "trainer/configs/synthetic.yaml"


def arguments(data: Path, output: Path, *overrides: str) -> list[str]:
    return ["--config", CONFIG, f"data={data}", f"output={output}", *TINY, *overrides]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distil.gamma=0", "unknown key distil. Did you mean distill?"),
        ("data=nowhere", "nowhere"),
        ("classifier=nowhere", "must be a frozen classifier model"),
        ("item_vectors=nowhere", "must be a frozen recommendation model"),
        ("deepspeed=nowhere", "nowhere"),
        ("student.pretrained=no/where", "student.pretrained must be the folder of a causal"),
    ],
)
def test_mistake_in_the_settings_is_one_error(
    override: str, message: str, prepared_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        checked_input(parse(arguments(prepared_dir, tmp_path, override)))


def test_item_vectors_of_another_vocabulary_are_refused(prepared_dir: Path, tmp_path: Path) -> None:
    write_recommendation_teacher(tmp_path / "teacher", tiny_vocabulary())
    vectors = f"item_vectors={tmp_path / 'teacher'}"
    with pytest.raises(ValueError, match="must have the data's vocabulary"):
        checked_input(parse(arguments(prepared_dir, tmp_path, "distill.gamma=0", vectors)))


def test_pretrained_student_with_a_torn_file_is_refused(prepared_dir: Path, tmp_path: Path) -> None:
    write_student(tmp_path / "student", tiny_vocabulary(), seed=1)
    os.truncate(tmp_path / "student" / "model.safetensors", 1000)
    start = ("student.dropout=0", f"student.pretrained={tmp_path / 'student'}")
    with pytest.raises(InputError, match="the file was changed or torn"):
        checked_input(parse(arguments(prepared_dir, tmp_path / "run", "distill.gamma=0", *start)))


@pytest.mark.parametrize("mistake", ["distil.gamma=0", "classifier=nowhere"])
def test_only_the_first_rank_of_a_node_reports_a_mistake(
    mistake: str, prepared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as left:
        main(arguments(prepared_dir, tmp_path, mistake))
    assert left.value.code == 2


def test_student_too_short_for_the_data_is_refused(prepared_dir: Path, tmp_path: Path) -> None:
    short = ("distill.gamma=0", "student.max_positions=8")
    config, data = checked_input(parse(arguments(prepared_dir, tmp_path, *short)))
    with pytest.raises(ValueError, match=r"student\.max_positions must be at least"):
        _build(config, data, None)
