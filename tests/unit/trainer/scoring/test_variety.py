"""Variety against numbers worked out by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from trainer.scoring.metrics import DISTINCT_N, scores
from trainer.scoring.sums import DialogueSums
from trainer.scoring.variety import NUM_FREQUENT, variety_counts

SAID = ["it is good it is", "see @1 !", "see @2 !", ""]
WORDS = [text.split() for text in SAID]


def test_distinct_ngrams_are_counted_within_each_response() -> None:
    counts = variety_counts(WORDS)
    # "it is good it is": 3 words, "it is", "is good", "good it", and all longer ones differ.
    assert counts["within_distinct_1"].tolist() == [3, 3, 3, 0]
    assert counts["within_distinct_2"].tolist() == [3, 2, 2, 0]
    assert counts["within_distinct_3"].tolist() == [3, 1, 1, 0]
    assert counts["within_distinct_4"].tolist() == [2, 0, 0, 0]


def test_responses_that_differ_in_the_film_alone_are_one() -> None:
    assert variety_counts(WORDS)["repeated"].tolist() == [0, 1, 1, 0]


def test_the_most_frequent_responses_are_those_said_most_often() -> None:
    often = [["a", str(i)] for i in range(NUM_FREQUENT)] * 2
    rare = [["b", str(i)] for i in range(5)]
    assert variety_counts(rare + often)["frequent"].tolist() == [0] * 5 + [1] * len(often)


def test_surprisal_over_words_is_the_entropy_of_their_shares() -> None:
    total = variety_counts(WORDS)["word_surprisal"].sum() / 11
    shares = [count / 11 for count in Counter(word for words in WORDS for word in words).values()]
    assert total == pytest.approx(-sum(share * math.log2(share) for share in shares))
    assert variety_counts([["a", "b", "c", "d"]])["word_surprisal"].tolist() == [8.0]


def test_nothing_said_has_counts_of_nothing() -> None:
    counts = variety_counts([[], []])
    assert {it for values in counts.values() for it in values.tolist()} <= {0.0, 1.0}
    assert counts["word_surprisal"].tolist() == [0.0, 0.0]


def test_metrics_are_formed_of_these_counts() -> None:
    counts = variety_counts(WORDS)
    counts |= {
        f"ngrams_{n}": np.array([max(0, len(it) - n + 1) for it in WORDS], np.float64)
        for n in DISTINCT_N
    }
    counts["responses"] = np.ones(len(WORDS))
    found = scores(DialogueSums(dialogues=("a", "b", "c", "d"), counts=counts))
    assert found["within_dist_1"] == pytest.approx(9 / 11)
    assert found["within_dist_2"] == pytest.approx(7 / 8)
    assert found["within_dist_4"] == pytest.approx(1.0)
    assert (found["repeated_share"], found["frequent_share"]) == (0.5, 1.0)
