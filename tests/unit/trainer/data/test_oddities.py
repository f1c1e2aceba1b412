from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from trainer.data.dialogue import Dialogue, FilmAnswers, Message, Origin, Questionnaires
from trainer.data.examples import Example
from trainer.data.oddities import count_oddities, find_twins

NOTHING = np.empty(0, np.int32)
ONE = np.array([1], np.int32)
TITLES = {"10": "Heat (1995)", "20": "Alien (1979)"}


def test_count_oddities_counts_what_stays_in_the_data() -> None:
    talk = Dialogue(
        "1",
        (
            Message("recommender", "see @10 or @77"),
            Message("recommender", "see @10 or @77"),
            Message("seeker", "yes"),
            Message("seeker", "yes"),
            Message("seeker", " "),
            Message("seeker", " "),
            Message("recommender", "yes"),
        ),
        TITLES,
        Questionnaires(seeker={"10": FilmAnswers(0, 1, 1)}),
        Origin(repeated_keys=2),
    )
    silent = Dialogue("2", (Message("seeker", "anybody?"),), {})
    past = Example("1:2", ONE, ONE, NOTHING, NOTHING, gold_items=ONE, is_recommendation=False)
    counts = count_oddities([talk, silent], [past], num_skipped=3)
    assert dataclasses.asdict(counts) == {
        "skipped_records": 3,
        "dialogues_without_example": 1,
        "dialogues_without_answers": 1,
        "unknown_mentions": 2,
        "repeated_keys": 2,
        "repeated_messages": 2,
        "repeated_mentions": 1,
        "items_past_the_cut": 1,
    }


@pytest.mark.parametrize(
    ("titles", "twins"),
    [
        ({"9": "Up (2009)", "10": "up  (2009)", "3": "Up (2010)"}, [["9", "10"]]),
        ({"1": "Movie", "2": "Movie"}, []),
        (
            {"4": "B (1999)", "1": "A (1999)", "3": "B (1999)", "2": "A (1999)"},
            [["1", "2"], ["3", "4"]],
        ),
    ],
)
def test_twins_share_title_and_year(titles: dict[str, str], twins: list[list[str]]) -> None:
    assert find_twins(titles) == twins
