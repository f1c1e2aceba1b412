from __future__ import annotations

import pytest

from trainer.data.dialogue import Dialogue, Message, Sender
from trainer.data.kgsf_counts import count_as_kgsf, seen_movies

TITLES = {"10": "Heat (1995)", "20": "Alien (1979)"}


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("@10 and @20", ["10", "20"]),
        ("(@10), @20? x@10! @20... @10.. @20", ["10", "20", "10", "20", "10", "20"]),
        ("I loved @10.", ["10"]),
        ("I loved @10. It is great.", ["10"]),
        ("I loved @10. i read the book.", []),
        ("I loved @10.I read", []),
        ("@10th @10-like @10/@20 @99", ["20"]),
    ],
)
def test_seen_movies_are_those_that_stand_alone(text: str, seen: list[str]) -> None:
    assert seen_movies(text, TITLES) == seen


def test_count_as_kgsf_counts_recommender_turns_after_the_first() -> None:
    talk: list[tuple[Sender, str]] = [
        ("recommender", "hi @10"),
        ("seeker", "@20"),
        ("recommender", "@10 or @20"),
        ("recommender", "@10"),
        ("seeker", "no"),
        ("recommender", "@20"),
        ("seeker", "no"),
        ("recommender", "bye"),
    ]
    dialogue = Dialogue("d", tuple(Message(role, text) for role, text in talk), TITLES)
    counts = count_as_kgsf([dialogue], linked={"10"})
    assert (counts.responses_with_item, counts.responses_with_linked_item) == (2, 1)
    # Two samples of the first response, and a case for each of the two without a linked movie.
    assert (counts.recommendation_samples, counts.cases) == (2, 4)
