"""Variety against numbers worked out by hand."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from trainer.scoring.answers import sum_counts
from trainer.scoring.metrics import scores
from trainer.scoring.variety import NUM_FREQUENT, variety_counts
from trainer.scoring.wording import wording_counts

RESPONSES = [
    *(("a", ["it", "is", "good", "it", "is"]), ("a", ["see", "@1", "!"])),
    *(("b", ["see", "@2", "!"]), ("b", [])),
]


def column(name: str, responses: list[tuple[str, list[str]]] = RESPONSES) -> list[float]:
    """One count of every response."""
    return [counts[name] for _, counts in variety_counts(responses)]


def test_distinct_ngrams_are_counted_within_each_response() -> None:
    # "it is good it is": 3 words; of "it is" there are two, all longer n-grams differ.
    assert column("within_distinct_1") == [3, 3, 3, 0]
    assert column("within_distinct_2") == [3, 2, 2, 0]
    assert column("within_distinct_3") == [3, 1, 1, 0]
    assert column("within_distinct_4") == [2, 0, 0, 0]


def test_responses_that_differ_in_the_film_alone_are_one() -> None:
    assert column("repeated") == [0, 1, 1, 0]


def test_the_most_frequent_responses_are_those_said_most_often() -> None:
    often = [("a", ["a", str(i)]) for i in range(NUM_FREQUENT)] * 2
    rare = [("b", ["b", str(i)]) for i in range(5)]
    assert column("frequent", rare + often) == [0] * 5 + [1] * len(often)


def test_surprisal_over_words_is_the_entropy_of_their_shares() -> None:
    times = Counter(word for _, words in RESPONSES for word in words)
    shares = [count / 11 for count in times.values()]
    entropy = -sum(share * math.log2(share) for share in shares)
    assert sum(column("word_surprisal")) / 11 == pytest.approx(entropy)
    assert column("word_surprisal", [("a", ["a", "b", "c", "d"])]) == [8.0]


def test_nothing_said_counts_no_word() -> None:
    assert column("word_surprisal", [("a", []), ("b", [])]) == [0.0, 0.0]


def test_metrics_are_formed_of_these_counts() -> None:
    sums = sum_counts(
        ["a", "b"],
        [
            *((dialogue, dict(it)) for dialogue, it in wording_counts(RESPONSES).items()),
            *variety_counts(RESPONSES),
            *((dialogue, {"responses": 1.0}) for dialogue, _ in RESPONSES),
        ],
    )
    found = scores(sums)
    assert found["within_dist_1"] == pytest.approx(9 / 11)
    assert found["within_dist_2"] == pytest.approx(7 / 8)
    assert found["within_dist_4"] == pytest.approx(1.0)
    assert (found["repeated_share"], found["frequent_share"]) == (0.5, 1.0)
