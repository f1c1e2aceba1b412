from __future__ import annotations

import dataclasses

import pytest

from tests.support.scoring_fakes import FILMS, NUM_FILMS, tiny_split
from trainer.data.dialogue import Questionnaires
from trainer.data.stored_dialogues import StoredDialogue, StoredMessage
from trainer.scoring.baselines import baseline_records, popular_films
from trainer.scoring.metrics import scores
from trainer.scoring.paper_view import paper_sums


def train_dialogue(*films: str) -> StoredDialogue:
    """A seeker who names film 9, and a recommender who names these."""
    messages = (
        StoredMessage("0", "seeker", "", ("9", "9", "9"), 0),
        StoredMessage("1", "recommender", "", films, 1),
    )
    return StoredDialogue("t", messages, (1,), Questionnaires())


def test_popular_films_are_those_of_responses_with_ties_in_the_catalogue_s_order() -> None:
    train = [train_dialogue("4", "7"), train_dialogue("7", "2")]
    assert popular_films(FILMS, train)[:5] == ["7", "2", "4", "0", "1"]


def test_copy_ranks_what_came_up_last_first_and_says_nothing_without_a_film_before() -> None:
    by_key = {it.key: it for it in baseline_records("copy", tiny_split(), ())}
    assert by_key["a", "1"].slots == ()
    assert by_key["a", "2"].ranking == ("1",)
    last = by_key["a", "4"]
    assert last.ranking == ("2", "1")
    assert (last.text, [it.item for it in last.slots]) == ("@2", ["2"])


def test_baselines_have_as_many_places_as_the_turn_has_gold_films() -> None:
    split = tiny_split()
    for name in ("popularity", "random"):
        by_key = {it.key: it for it in baseline_records(name, split, [train_dialogue("1")])}
        places = {key: len(record.slots) for key, record in by_key.items()}
        # Message 2 is inside a turn: its films are the first message's places.
        assert places == {("a", "1"): 2, ("a", "4"): 1, ("b", "2"): 0, ("a", "2"): 0}
        ranking = by_key["a", "4"].ranking
        assert ranking is not None
        assert len(set(ranking)) == 52


def test_popularity_scores_match_hand_values() -> None:
    split = tiny_split()
    found = scores(
        paper_sums(baseline_records("popularity", split, [train_dialogue("1")]), split)["all"]
    )
    # Film 1 stands first in every list: found in both turns, once each.
    assert found["rer_at_1"] == pytest.approx(2 / 3)
    assert found["recall_at_1"] == pytest.approx(2 / 3)
    assert found["conventional_rer_at_1"] == pytest.approx(3 / 3)


def test_a_random_order_finds_its_share() -> None:
    split = tiny_split()
    turn = split.turns[0]
    turns = tuple(dataclasses.replace(turn, key=("a", str(n))) for n in range(2000))
    split = dataclasses.replace(split, turns=turns, instances=())
    records = baseline_records("random", split, ())
    hits = sum("1" in (record.ranking or ())[:10] for record in records)
    assert hits / 2000 == pytest.approx(10 / NUM_FILMS, abs=0.03)
    assert records == baseline_records("random", split, ())


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="one of copy, popularity, random, got best"):
        baseline_records("best", tiny_split(), ())
