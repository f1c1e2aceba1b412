from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from trainer.evaluation.metrics import (
    CUTOFFS,
    ItemSlot,
    bits_per_character,
    conventional_distinct_n,
    copy_slots,
    distinct_n,
    list_depth,
    maximum_matching,
    perplexity,
    popularity_slots,
    recommendation_ratio,
    recommendation_scores,
    response_words,
    to_words,
)

NUM_ITEMS = 100


def slot(*best: int) -> ItemSlot:
    """A slot that ranks these items first, then the rest of the catalogue from the end."""
    rest = [item for item in range(NUM_ITEMS - 1, -1, -1) if item not in best]
    return ItemSlot(item=best[0], top_items=np.array([*best, *rest][:60], np.int32))


@pytest.mark.parametrize(
    ("slots", "gold", "matched_at_1", "pairs_at_1", "matched_at_10", "pairs_at_10"),
    [
        ([], [], 0, 0, 0, 0),
        ([], [1], 0, 0, 0, 0),
        ([slot(1)], [], 0, 0, 0, 0),
        ([slot(1)], [1], 1, 1, 1, 1),
        ([slot(1)], [2], 0, 0, 0, 0),
        ([slot(1, 2)], [2], 0, 0, 1, 1),
        # Two positions, one gold item: the conventional count is 2, more than there is to find.
        ([slot(1), slot(1)], [1], 1, 2, 1, 2),
        # One position, two gold items: it can serve one of them.
        ([slot(1, 2)], [1, 2], 1, 1, 1, 2),
        # A repeated gold item is two items to find.
        ([slot(1), slot(1)], [1, 1], 2, 4, 2, 4),
        # The first position could take either item; greedy in order would strand the second.
        ([slot(1, 2), slot(1)], [1, 2], 1, 2, 2, 3),
    ],
)
def test_recommendation_scores_of_one_response_match_hand_counts(
    slots: list[ItemSlot],
    gold: list[int],
    matched_at_1: int,
    pairs_at_1: int,
    matched_at_10: int,
    pairs_at_10: int,
) -> None:
    scores = recommendation_scores([slots], [gold], num_items=NUM_ITEMS)
    assert (scores.matched[1], scores.pairs[1]) == (matched_at_1, pairs_at_1)
    assert (scores.matched[10], scores.pairs[10]) == (matched_at_10, pairs_at_10)
    assert (scores.num_gold, scores.num_slots) == (len(gold), len(slots))


def test_recommendation_scores_of_a_corpus_divide_sums_not_means() -> None:
    # Response 1: 2 of 2 gold found by 2 of 3 positions. 2: nothing said, 1 gold. 3: no gold.
    slots = [[slot(1), slot(2), slot(9)], [], [slot(5)]]
    result = recommendation_scores(slots, [[1, 2], [7], []], num_items=NUM_ITEMS).to_dict()
    assert result["rer_at_1"] == pytest.approx(2 / 3)
    assert result["prr_at_1"] == pytest.approx(2 / 4)
    assert result["f1_at_1"] == pytest.approx(4 / 7)
    assert result["num_gold_responses"] == 2


def test_recommendation_scores_conventional_recall_can_exceed_one() -> None:
    scores = recommendation_scores([[slot(1), slot(1)]], [[1]], num_items=NUM_ITEMS).to_dict()
    assert scores["rer_at_1"] == 1.0
    assert scores["prr_at_1"] == 0.5
    assert scores["conventional"]["rer_at_1"] == 2.0
    assert scores["conventional"]["rer_per_gold_response_at_1"] == 2.0
    assert scores["conventional"]["pairs_at_1"] == 2


def test_recommendation_scores_without_slots_or_gold_are_zero() -> None:
    scores = recommendation_scores([[]], [[]], num_items=NUM_ITEMS).to_dict()
    assert all(scores[f"{name}_at_{k}"] == 0.0 for name in ("rer", "prr", "f1") for k in CUTOFFS)


def test_recommendation_scores_rank_boundaries_are_exact() -> None:
    ranked = ItemSlot(item=0, top_items=np.arange(60, dtype=np.int32))
    scores = recommendation_scores([[ranked]] * 4, [[9], [10], [49], [50]], num_items=NUM_ITEMS)
    assert scores.matched == {1: 0, 10: 1, 50: 3}


def test_recommendation_scores_of_new_items_drop_mentions_from_gold_and_lists() -> None:
    slots = [[slot(3, 1)]]
    whole = recommendation_scores(slots, [[3, 1]], num_items=NUM_ITEMS)
    new = recommendation_scores(slots, [[3, 1]], num_items=NUM_ITEMS, mentioned=[{3}])
    assert (whole.num_gold, whole.matched[1]) == (2, 1)
    # 3 was named before: it is no gold any more, and 1 moves up to the first rank.
    assert (new.num_gold, new.matched[1], new.num_slots) == (1, 1, 1)


def test_recommendation_scores_of_new_items_fill_the_last_rank() -> None:
    ranked = ItemSlot(item=0, top_items=np.arange(51, dtype=np.int32))
    new = recommendation_scores([[ranked]], [[50]], num_items=NUM_ITEMS, mentioned=[{4}])
    assert new.matched[50] == 1


def test_recommendation_scores_with_a_short_list_are_refused() -> None:
    short = ItemSlot(item=0, top_items=np.arange(50, dtype=np.int32))
    with pytest.raises(ValueError, match="at least 51 items, got 50"):
        recommendation_scores([[short]], [[1]], num_items=NUM_ITEMS, mentioned=[{4}])


def test_recommendation_scores_with_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length, got 1, 2 and 2"):
        recommendation_scores([[]], [[1], [2]], num_items=NUM_ITEMS)


def test_list_depth_of_a_small_catalogue_is_the_catalogue() -> None:
    assert list_depth(40, 3) == 40
    assert list_depth(100, 3) == 53


def slow_matching(edges: np.ndarray) -> int:
    """Every assignment of gold items, or none, to slots."""
    slots, gold = edges.shape
    choices = [[-1, *np.flatnonzero(edges[s])] for s in range(slots)]
    best = 0
    for assignment in itertools.product(*choices):
        used = [g for g in assignment if g >= 0]
        if len(used) == len(set(used)):
            best = max(best, len(used))
    return min(best, gold)


def test_maximum_matching_equals_exhaustive_search() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        edges = rng.random((rng.integers(0, 5), rng.integers(0, 5))) < 0.4
        assert maximum_matching(edges) == slow_matching(edges)


def test_recommendation_ratio_counts_responses_not_items() -> None:
    assert recommendation_ratio([[slot(1), slot(2)], [], [], [slot(3)]]) == 0.5


def test_perplexity_is_exp_of_mean_nll_over_tokens() -> None:
    assert perplexity(3 * math.log(8.0), 3) == pytest.approx(8.0)
    assert perplexity(1e6, 1) == math.inf
    with pytest.raises(ValueError, match="at least 1 gold token, got 0"):
        perplexity(0.0, 0)


def test_bits_per_character_is_nll_in_bits_over_characters() -> None:
    assert bits_per_character(8 * math.log(2.0), 4) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="at least 1 character"):
        bits_per_character(1.0, 0)


def test_to_words_splits_punctuation_and_keeps_apostrophes_and_case() -> None:
    assert to_words("Don't go, It's 2 good!!") == [
        "Don't",
        "go",
        ",",
        "It's",
        "2",
        "good",
        "!",
        "!",
    ]


def test_response_words_count_a_movie_as_one_word() -> None:
    texts = {1: "see", 2: "it", 3: "!"}
    words = response_words(
        [1, 99, 2, 3],
        is_item=lambda token: token == 99,
        decode=lambda ids: " ".join(texts[i] for i in ids),
    )
    assert words == ["see", "@99", "it", "!"]


@pytest.mark.parametrize(
    ("n", "corpus", "conventional"),
    [
        # a b a b | a b | (nothing): unigrams a, b of 6; bigrams ab, ba, of 4; aba, bab of 2; abab.
        (1, 2 / 6, 2 / 3),
        (2, 2 / 4, 2 / 3),
        (3, 2 / 2, 2 / 3),
        (4, 1 / 1, 1 / 3),
        (5, 0.0, 0.0),
    ],
)
def test_distinct_n_matches_hand_values(n: int, corpus: float, conventional: float) -> None:
    outputs = [["a", "b", "a", "b"], ["a", "b"], []]
    assert distinct_n(outputs, n) == pytest.approx(corpus)
    assert conventional_distinct_n(outputs, n) == pytest.approx(conventional)


def test_distinct_n_has_no_ngram_across_responses() -> None:
    assert distinct_n([["a"], ["b"]], 2) == 0.0
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        distinct_n([["a"]], 0)


def test_copy_slots_score_repeats_and_nothing_new() -> None:
    # Context: 4, then 7. Gold: 7 again and 8.
    slots = [copy_slots([4, 7], 2, 52)]
    assert slots[0][0].top_items[:3].tolist() == [7, 4, -1]
    whole = recommendation_scores(slots, [[7, 8]], num_items=NUM_ITEMS)
    new = recommendation_scores(slots, [[7, 8]], num_items=NUM_ITEMS, mentioned=[{4, 7}])
    assert whole.matched == {1: 1, 10: 1, 50: 1}
    assert new.matched == {1: 0, 10: 0, 50: 0}
    assert copy_slots([], 2, 50) == ()


def test_popularity_slots_repeat_one_ranking() -> None:
    slots = [popularity_slots(np.arange(50), 2)]
    scores = recommendation_scores(slots, [[0, 9]], num_items=NUM_ITEMS)
    assert scores.matched == {1: 1, 10: 2, 50: 2}
