from __future__ import annotations

import itertools

import numpy as np
import pytest

from trainer.scoring.hits import maximum_matching, mismatches, ranking_hits, related_hits, slot_hits


@pytest.mark.parametrize(
    ("lists", "gold", "matched_at_1", "pairs_at_1", "matched_at_10", "pairs_at_10"),
    [
        ([], [], 0, 0, 0, 0),
        ([], ["1"], 0, 0, 0, 0),
        ([["1"]], [], 0, 0, 0, 0),
        ([["1"]], ["1"], 1, 1, 1, 1),
        ([["1"]], ["2"], 0, 0, 0, 0),
        ([["1", "2"]], ["2"], 0, 0, 1, 1),
        ([[]], ["2"], 0, 0, 0, 0),
        # Two slots, one gold film: the conventional count is 2, more than there is to find.
        ([["1"], ["1"]], ["1"], 1, 2, 1, 2),
        # One slot, two gold films: it can serve one of them.
        ([["1", "2"]], ["1", "2"], 1, 1, 1, 2),
        # A repeated gold film is two films to find.
        ([["1"], ["1"]], ["1", "1"], 2, 4, 2, 4),
        # The first slot could take either film; greedy in order would strand the second.
        ([["1", "2"], ["1"]], ["1", "2"], 1, 2, 2, 3),
    ],
)
def test_slot_hits_of_one_response_match_hand_counts(
    lists: list[list[str]],
    gold: list[str],
    matched_at_1: int,
    pairs_at_1: int,
    matched_at_10: int,
    pairs_at_10: int,
) -> None:
    counts = slot_hits(lists, gold)
    assert (counts["matched_1"], counts["pairs_1"]) == (matched_at_1, pairs_at_1)
    assert (counts["matched_10"], counts["pairs_10"]) == (matched_at_10, pairs_at_10)


def test_ranking_hits_count_repeated_gold_twice_and_cut_exactly() -> None:
    ranking = [str(rank) for rank in range(60)]
    counts = ranking_hits(ranking, ["0", "0", "9", "10", "49", "50"])
    assert counts == {"ranking_hits_1": 2, "ranking_hits_10": 3, "ranking_hits_50": 5}


def test_mismatches_count_places_outside_of_the_first() -> None:
    counts = mismatches(["0", "1", "x"], ["0", "1"])
    assert counts == {"mismatches_1": 2, "mismatches_10": 1, "mismatches_50": 1}
    assert mismatches([], [])["mismatches_1"] == 0


def test_related_hits_count_slots_not_films() -> None:
    counts = related_hits([["1", "2", "3"], ["4"]], {"2", "3"})
    assert counts == {"related_1": 0, "related_10": 1, "related_50": 1}


def slow_matching(edges: np.ndarray) -> int:
    """Every assignment of gold films, or none, to slots."""
    slots, _ = edges.shape
    choices = [[-1, *np.flatnonzero(edges[s])] for s in range(slots)]
    best = 0
    for assignment in itertools.product(*choices):
        used = [g for g in assignment if g >= 0]
        if len(used) == len(set(used)):
            best = max(best, len(used))
    return best


def test_maximum_matching_equals_exhaustive_search() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        edges = rng.random((rng.integers(0, 5), rng.integers(0, 5))) < 0.4
        assert maximum_matching(edges) == slow_matching(edges)
