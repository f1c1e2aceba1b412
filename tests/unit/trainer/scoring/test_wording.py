from __future__ import annotations

import pytest

from trainer.scoring.wording import response_words, to_words, wording_counts


def test_to_words_splits_punctuation_and_keeps_apostrophes_and_case() -> None:
    words = ["Don't", "go", ",", "It's", "2", "good", "!", "!"]
    assert to_words("Don't go, It's 2 good!!") == words


def test_a_film_is_one_word_also_where_it_is_glued() -> None:
    films = {"12", "123"}
    assert response_words("see@123.It is @12, not @4", films) == (
        ["see", "@123", ".", "It", "is", "@12", ",", "not", "@", "4"]
    )


@pytest.mark.parametrize(
    ("n", "ngrams", "distinct"),
    [
        # a b a b | a b | (nothing): unigrams a, b of 6; bigrams ab, ba of 4; aba, bab of 2; abab.
        (1, 6, 2),
        (2, 4, 2),
        (3, 2, 2),
        (4, 1, 1),
    ],
)
def test_counts_of_ngrams_match_hand_values(n: int, ngrams: int, distinct: int) -> None:
    counts = wording_counts([("x", list("abab")), ("y", list("ab")), ("y", [])])
    assert sum(it[f"ngrams_{n}"] for it in counts.values()) == ngrams
    assert sum(it[f"distinct_{n}"] for it in counts.values()) == pytest.approx(distinct)


def test_dialogues_share_an_ngram_equally_and_no_ngram_crosses_a_response() -> None:
    counts = wording_counts(
        [("x", list("ab")), ("x", list("a")), ("y", list("a")), ("z", list("a"))]
    )
    assert counts["x"]["distinct_1"] == pytest.approx(1 / 3 + 1)
    assert counts["y"]["distinct_1"] == pytest.approx(1 / 3)
    assert counts["x"]["ngrams_2"] == 1
