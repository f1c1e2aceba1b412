from __future__ import annotations

import dataclasses

import pytest

from tests.support.scoring_fakes import slot, tiny_records, tiny_split
from trainer.data.dialogue import Questionnaires
from trainer.scoring.answers import MissingRecords
from trainer.scoring.baselines import baseline_records
from trainer.scoring.metrics import scores
from trainer.scoring.records import Record, first_list
from trainer.scoring.sigir26_view import sigir26_sums


def test_scores_of_a_tiny_corpus_match_hand_values() -> None:
    found = scores(sigir26_sums(tiny_records(), tiny_split())["all"])
    # Film 2, which is liked, stands first in all three instances, and is gold in the second one.
    assert found == pytest.approx(
        {
            "dialogues": 1,
            "instances": 3,
            "gold": 3,
            "recall_at_1": 1 / 3,
            "recall_at_10": 1.0,
            "recall_at_50": 1.0,
            "sr": 1.0,
            "rdl": 1 / 5,
            "any_sr": 1.0,
            "any_rdl": 3 / 5,
            "empty_questionnaires": 0,
        }
    )


def test_scores_of_new_films_match_hand_values() -> None:
    found = scores(sigir26_sums(tiny_records(), tiny_split())["new"])
    # The last instance has no new film, and is none.
    assert found == pytest.approx(
        {
            "dialogues": 1,
            "instances": 2,
            "gold": 2,
            "recall_at_1": 1 / 2,
            "recall_at_10": 1.0,
            "recall_at_50": 1.0,
            "sr": 1.0,
            "rdl": 1 / 5,
            "any_sr": 1.0,
            "any_rdl": 2 / 5,
            "empty_questionnaires": 0,
        }
    )


def test_a_film_that_was_only_seen_is_half_a_success() -> None:
    first, *others = tiny_records()
    silent = [dataclasses.replace(it, ranking=()) for it in others]
    records = [dataclasses.replace(first, ranking=("1", "2")), *silent]
    found = scores(sigir26_sums(records, tiny_split())["all"])
    assert (found["sr"], found["rdl"]) == (1.0, pytest.approx(0.5 / 5))


def test_copying_finds_repeats_and_nothing_new() -> None:
    split = tiny_split()
    sums = sigir26_sums(baseline_records("copy", split, ()), split)
    both = scores(sums["all"])
    # Before the second instance 1 is named, seen and not gold. Before the last one 2 is the film
    # named last, liked and not gold, and 1 the one before.
    assert (both["recall_at_1"], both["recall_at_10"]) == (0.0, pytest.approx(1 / 3))
    assert (both["sr"], both["any_sr"]) == (0.0, 1.0)
    assert both["any_rdl"] == pytest.approx((0.5 + 1) / 5)
    new = scores(sums["new"])
    for name in ("recall_at_50", "sr", "rdl", "any_sr", "any_rdl"):
        assert new[name] == 0.0


def test_empty_questionnaires_are_counted_and_have_no_success() -> None:
    split = tiny_split()
    silent = dataclasses.replace(split.dialogues[0], questionnaires=Questionnaires())
    split = dataclasses.replace(split, dialogues=(silent, split.dialogues[1]))
    found = scores(sigir26_sums(tiny_records(), split)["all"])
    assert (found["empty_questionnaires"], found["sr"], found["rdl"]) == (1, 0.0, 0.0)


def test_the_list_is_the_module_s_else_the_first_slot_s_else_nothing() -> None:
    record = Record(dialogue="a", message="1", text="@3 @4", slots=(slot("3", "5"), slot("4")))
    assert first_list(record) == ("3", "5")
    assert first_list(dataclasses.replace(record, ranking=())) == ()
    assert first_list(dataclasses.replace(record, ranking=("8",))) == ("8",)
    assert first_list(Record(dialogue="a", message="1", text="")) == ()


def test_a_missing_instance_is_named() -> None:
    records = [it for it in tiny_records() if it.message != "2"]
    with pytest.raises(MissingRecords, match=r"got 2 of 3 \(the first is message 2 of dialogue a"):
        sigir26_sums(records, tiny_split())


def test_dialogues_in_which_nothing_is_asked_are_refused() -> None:
    records = [it for it in tiny_records() if it.dialogue == "b"]
    with pytest.raises(MissingRecords, match=r"got 0 of 0 \(nothing is asked there"):
        sigir26_sums(records, tiny_split())
