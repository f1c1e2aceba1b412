from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.scoring_fakes import random_answers
from trainer.data.prepared import PreparedData, load_prepared
from trainer.evaluation import score as command
from trainer.scoring.baselines import baseline_records
from trainer.scoring.card import SystemCard, write_system_card
from trainer.scoring.paper_view import paper_sums
from trainer.scoring.records import Record, write_records
from trainer.scoring.scored_split import ScoredSplit, scored_split
from trainer.scoring.systems import compare_systems

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def data(prepared_dir: Path) -> PreparedData:
    return load_prepared(prepared_dir)


@pytest.fixture(scope="module")
def split(data: PreparedData) -> ScoredSplit:
    return scored_split(data, "test")


@pytest.fixture
def write(tmp_path: Path, split: ScoredSplit) -> Write:
    """Writes a system's records; `kept` says which of them."""

    def write_system(name: str, seed: int, kept: Callable[[Record], bool] = lambda _: True) -> Path:
        path = tmp_path / f"{name}.jsonl"
        rng = np.random.default_rng(seed)
        records = random_answers(rng, split, split.movie_ids[:60], depth=55)
        write_records(path, [record for record in records if kept(record)])
        return path

    return write_system


def no_nan(value: Any) -> bool:
    """Whether no number in a JSON value is NaN or infinite."""
    if isinstance(value, dict):
        return all(no_nan(it) for it in value.values())
    if isinstance(value, list):
        return all(no_nan(it) for it in value)
    return not isinstance(value, float) or math.isfinite(value)


def test_systems_stand_side_by_side_and_each_against_the_first(
    write: Write, data: PreparedData, split: ScoredSplit
) -> None:
    files = [write("ours", 0), write("theirs", 1)]
    found = compare_systems(files, ["popularity"], data, "test").to_dict()
    assert list(found["systems"]) == ["ours", "theirs", "popularity"]
    assert (found["against"], set(found["paired"])) == ("ours", {"theirs", "popularity"})
    ours = found["systems"]["ours"]
    wanted = {"instances", "gold", "recall_at_1", "recall_at_10", "recall_at_50", "sr", "rdl"}
    assert wanted <= set(ours["sigir26"]["all"]) & set(ours["sigir26"]["new"])
    low, high = ours["paper"]["all"]["intervals"]["f1_at_10"]
    assert low <= ours["paper"]["all"]["f1_at_10"] <= high
    paired = found["paired"]["theirs"]["paper"]["all"]["f1_at_50"]
    theirs = found["systems"]["theirs"]["paper"]["all"]
    assert paired["difference"] == pytest.approx(
        theirs["f1_at_50"] - ours["paper"]["all"]["f1_at_50"]
    )
    # A baseline ranks: neither its words nor how often it names a film are its own.
    assert not {"dist_2", "rec_ratio"} & set(found["systems"]["popularity"]["paper"]["all"])
    assert no_nan(found)


def test_scores_of_a_file_are_those_of_its_records(
    write: Write, data: PreparedData, split: ScoredSplit
) -> None:
    (system,) = compare_systems([write("ours", 0)], [], data, "test").systems
    records = random_answers(np.random.default_rng(0), split, split.movie_ids[:60], depth=55)
    counts = system.views["paper"]["all"].counts
    for name, wanted_N in paper_sums(records, split)["all"].counts.items():
        assert counts[name].tolist() == wanted_N.tolist()


def test_a_view_that_a_file_does_not_answer_is_null_and_told(
    write: Write, data: PreparedData, split: ScoredSplit
) -> None:
    keys = {it.key for it in split.instances}
    missing = next(it.key for it in split.turns if it.key not in keys)
    path = write("ranker", 0, kept=lambda record: record.key in keys)
    found = compare_systems([path], [], data, "test").to_dict()["systems"]["ranker"]
    assert found["paper"] is None
    assert found["sigir26"]["all"]["instances"] == len(split.instances)
    assert f"(the first is message {missing[1]}" in found["notes"][0]


def test_a_part_of_the_dialogues_is_told_and_baselines_keep_to_it(
    write: Write, data: PreparedData, split: ScoredSplit
) -> None:
    some = {it.dialogue_id for it in split.dialogues[:3]}
    path = write("part", 0, kept=lambda record: record.dialogue in some)
    comparison = compare_systems([path], ["copy"], data, "test")
    assert "part: answers 3 of" in comparison.systems[0].notes[0]
    assert comparison.systems[1].views["paper"]["all"].dialogues == tuple(
        it.dialogue_id for it in split.dialogues[:3]
    )


def test_systems_of_other_dialogues_are_not_compared(
    write: Write, data: PreparedData, split: ScoredSplit
) -> None:
    some = {it.dialogue_id for it in split.dialogues[:3]}
    files = [write("all", 0), write("part", 1, kept=lambda record: record.dialogue in some)]
    with pytest.raises(ValueError, match="must have the same dialogues"):
        compare_systems(files, [], data, "test")


def test_systems_of_one_name_have_their_files_names_too(write: Write, data: PreparedData) -> None:
    files = [write("one", 0), write("two", 1)]
    for path in files:
        write_system_card(path, SystemCard(system="ours"))
    names = [it.name for it in compare_systems(files, [], data, "test").systems]
    assert names == ["ours (one)", "ours (two)"]
    with pytest.raises(ValueError, match="each file must be given once"):
        compare_systems([files[0], files[0]], [], data, "test")


@pytest.mark.parametrize("key", ["split", "vocabulary_digest", "data_digest"])
def test_a_card_of_other_data_is_refused(key: str, write: Write, data: PreparedData) -> None:
    path = write("ours", 0)
    card = SystemCard(
        system="ours",
        split="test",
        vocabulary_digest=data.vocabulary.digest,
        data_digest=data.manifest.dialogue_digests["test"],
    )
    write_system_card(path, card)
    compare_systems([path], [], data, "test")
    write_system_card(path, dataclasses.replace(card, **{key: "other"}))
    with pytest.raises(ValueError, match=f"{key} of .*ours.jsonl must be the data's, .* got other"):
        compare_systems([path], [], data, "test")


def test_a_file_of_other_examples_is_one_line_that_names_it(
    write: Write, data: PreparedData, split: ScoredSplit
) -> None:
    path = write("ours", 0)
    with pytest.raises(ValueError, match=r"ours.jsonl: message .* must be a recommender's in the"):
        compare_systems([path], [], data, "valid")


def test_the_command_prints_tables_without_nan(
    write: Write, data: PreparedData, split: ScoredSplit, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = write("silent", 0)
    keys = {it.key for it in (*split.turns, *split.instances)}
    write_records(silent, [Record(dialogue=d, message=m, text="") for d, m in keys])
    write_system_card(silent, SystemCard(system="silent", latency_ms_median=5.5))
    arguments = ["--data", str(data.root), "--baselines", "copy,popularity,random"]
    command.main([str(silent), *arguments])
    printed = capsys.readouterr().out
    assert "nan" not in printed.lower().replace("financ", "")
    assert "Paper's view, new films only" in printed
    assert "5.500" in printed
    assert "Against silent, paired by dialogue" in printed


def test_the_command_needs_no_file_and_prints_one_object(
    data: PreparedData, split: ScoredSplit, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["--data", str(data.root), "--baselines", "copy,random", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found["systems"]) == {"copy", "random"}
    records = baseline_records("copy", split, ())
    gold = sum(len(it.gold) for it in split.turns)
    assert found["systems"]["copy"]["paper"]["all"]["gold"] == gold
    assert len(records) >= len(split.turns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a file of records must be given, got none"),
        (["--baselines", "best"], "--baselines must be some of copy,popularity,random, got best"),
        (["--baselines", "copy,copy"], "must be some of copy,popularity,random, got copy,copy"),
    ],
)
def test_a_wrong_command_is_refused_before_the_work(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        command.parse(["--data", "nowhere", *arguments])
