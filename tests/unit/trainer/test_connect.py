"""Which teachers the ranks of a run connect to; the ranks are fakes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import commit
from trainer import student_run
from trainer.checkpoints import files, provenance
from trainer.checkpoints.provenance import RunProvenance
from trainer.common.errors import TeacherUnavailable
from trainer.config.run import RunConfig, TrainConfig

RUN_ID = "of-the-first-rank"
FIRST = {"dialogue": "weights-a in float32 at temperature 1"}


class Met:
    """What a rank connected to."""

    def __init__(self, identity: Mapping[str, str]) -> None:
        self.identity = dict(identity)
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Rank:
    """One rank, of which the first one's word is known."""

    def __init__(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, str]] = []
        self.run_ids: list[str] = []
        self.said: list[str] = []
        self.met = Met(FIRST)
        monkeypatch.setattr(student_run, "is_first_rank", lambda: number == 0)
        monkeypatch.setattr(student_run, "on_all_ranks", lambda action: action())
        monkeypatch.setattr(student_run, "text_of_first_rank", self._hear)

    def _hear(self, text: str) -> str:
        if not text.startswith("{"):
            return RUN_ID
        self.said.append(text)
        return json.dumps(FIRST)

    def connect(self, settled: Mapping[str, str], run_id: str) -> Any:
        self.asked.append(dict(settled))
        self.run_ids.append(run_id)
        return self.met


def config_of(output: Path, *, resume: bool = True) -> RunConfig:
    return RunConfig(data="d", output=str(output), train=TrainConfig(resume=resume))


def test_first_rank_of_a_new_run_takes_whom_it_meets_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = Rank(0, monkeypatch)
    assert student_run.connect_all_ranks(config_of(tmp_path), rank.connect) is rank.met
    assert rank.asked == [{}]
    assert [json.loads(text) for text in rank.said] == [FIRST]


def test_other_ranks_take_those_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = Rank(1, monkeypatch)
    assert student_run.connect_all_ranks(config_of(tmp_path), rank.connect) is rank.met
    assert rank.asked == [FIRST]


def test_first_rank_of_a_run_that_goes_on_takes_those_of_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"dialogue": "weights-b in bf16 at temperature 1"}
    folder = tmp_path / files.CHECKPOINTS_NAME
    (folder / files.tag_of(10)).mkdir(parents=True)
    commit(folder, 10, ranks=1, keep=1)
    sources = RunProvenance(vocabulary="v", graphs="g", examples="e", teachers=before)
    provenance.write_provenance(tmp_path, sources)
    rank = Rank(0, monkeypatch)
    student_run.connect_all_ranks(config_of(tmp_path), rank.connect)
    student_run.connect_all_ranks(config_of(tmp_path, resume=False), rank.connect)
    assert rank.asked == [before, {}]


def test_teachers_of_the_first_rank_are_closed_where_another_rank_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = Rank(0, monkeypatch)
    done: list[Any] = []

    def on_all_ranks(action: Any) -> Any:
        if done:
            raise TeacherUnavailable("no dialogue teacher answered for 1 s.")
        done.append(action())
        return done[0]

    monkeypatch.setattr(student_run, "on_all_ranks", on_all_ranks)
    with pytest.raises(TeacherUnavailable):
        student_run.connect_all_ranks(config_of(tmp_path), rank.connect)
    assert rank.met.is_closed


def test_run_without_teachers_has_none_to_agree_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = Rank(0, monkeypatch)
    assert student_run.connect_all_ranks(config_of(tmp_path), lambda *_: None) is None
    assert rank.said == ["{}"]


@pytest.mark.parametrize("number", [0, 1])
def test_all_ranks_have_the_run_id_of_the_first(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = Rank(number, monkeypatch)
    student_run.connect_all_ranks(config_of(tmp_path), rank.connect)
    assert rank.run_ids == [RUN_ID]
