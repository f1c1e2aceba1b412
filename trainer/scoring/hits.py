"""How many gold films the lists of one response hold.

S slots, G gold films.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from trainer.scoring.metrics import CUTOFFS

NOT_LISTED = 1 << 62
"""Rank of a film that a list does not hold."""
Counts = dict[str, float]


def without(films: Sequence[str], left_out: AbstractSet[str]) -> list[str]:
    """The films in their order, without those left out."""
    return [film for film in films if film not in left_out] if left_out else list(films)


def slot_hits(lists: Sequence[Sequence[str]], gold: Sequence[str], *, prefix: str = "") -> Counts:
    """`matched_<k>` and `pairs_<k>` of a response's slots.

    A pair is a slot whose first k films hold a gold film. Matched are the most pairs in which each
    slot and each gold film is once: at most the number of either.
    """
    ranks_SG = np.array([_ranks(films, gold) for films in lists], np.int64)
    ranks_SG = ranks_SG.reshape(len(lists), len(gold))
    counts = {}
    for k in CUTOFFS:
        counts[f"{prefix}matched_{k}"] = float(maximum_matching(ranks_SG < k))
        counts[f"{prefix}pairs_{k}"] = float((ranks_SG < k).sum())
    return counts


def ranking_hits(ranking: Sequence[str], gold: Sequence[str]) -> Counts:
    """`ranking_hits_<k>`: gold films, with repeats, among the first k."""
    ranks = _ranks(ranking, gold)
    return {f"ranking_hits_{k}": float(sum(rank < k for rank in ranks)) for k in CUTOFFS}


def mismatches(items: Sequence[str], ranking: Sequence[str]) -> Counts:
    """`mismatches_<k>`: films named that are not among the first k of the ranking module."""
    ranks = _ranks(ranking, items)
    return {f"mismatches_{k}": float(sum(rank >= k for rank in ranks)) for k in CUTOFFS}


def related_hits(lists: Sequence[Sequence[str]], related: AbstractSet[str]) -> Counts:
    """`related_<k>`: slots whose first k films hold a related one."""
    return {
        f"related_{k}": float(sum(any(it in related for it in films[:k]) for films in lists))
        for k in CUTOFFS
    }


def maximum_matching(edges_SG: np.ndarray) -> int:
    """Size of a maximum matching of a bipartite graph, bool [S, G], by augmenting paths."""
    if min(edges_SG.shape) < 2:
        return int(edges_SG.any())
    slot_of_gold: dict[int, int] = {}

    def augment(slot: int, visited: set[int]) -> bool:
        for gold in np.flatnonzero(edges_SG[slot]).tolist():
            if gold in visited:
                continue
            visited.add(gold)
            if gold not in slot_of_gold or augment(slot_of_gold[gold], visited):
                slot_of_gold[gold] = slot
                return True
        return False

    return sum(augment(slot, set()) for slot in range(len(edges_SG)))


def _ranks(ranking: Sequence[str], films: Sequence[str]) -> list[int]:
    """The rank of each film, from 0."""
    rank_of = {film: rank for rank, film in enumerate(ranking)}
    return [rank_of.get(film, NOT_LISTED) for film in films]
