"""Films within two steps of others in the graph, and what a random order would hit of them.

N entities, I items, E edges, each once in both directions.

Source: the paper's Table 4, which names the two hops; docs/evaluation.md has what it leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from trainer.data.knowledge_graph import KnowledgeGraph


class RelatedFilms:
    """Looks films up that share an attribute, or are linked; edges have no direction here."""

    def __init__(self, graph: KnowledgeGraph, movie_ids: Sequence[str]) -> None:
        """`movie_ids` are those of the graph's items, in their order."""
        heads_E, _, tails_E = graph.edges_E3[graph.edges_E3[:, 0] != graph.edges_E3[:, 2]].T
        self._from_E = np.concatenate([heads_E, tails_E])
        self._to_E = np.concatenate([tails_E, heads_E])
        self._num_entities = graph.num_entities
        self._item_entities_I = graph.item_entities_I
        self._movie_ids = tuple(movie_ids)
        self._entity_of = dict(zip(movie_ids, graph.item_entities_I.tolist(), strict=True))

    def of(self, films: Iterable[str]) -> frozenset[str]:
        """Films one or two edges away from one of these; the films themselves where a path leads
        back, as over an attribute. Self-loops are no edges.
        """
        start_N = np.zeros(self._num_entities, bool)
        start_N[[self._entity_of[film] for film in films]] = True
        one_N = self._neighbours(start_N)
        reached_I = (one_N | self._neighbours(one_N))[self._item_entities_I]
        items: list[int] = np.flatnonzero(reached_I).tolist()
        return frozenset(self._movie_ids[item] for item in items)

    def _neighbours(self, entities_N: np.ndarray) -> np.ndarray:
        """Entities one edge away from any of these; bool [N]."""
        found_N = np.zeros(self._num_entities, bool)
        found_N[self._to_E[entities_N[self._from_E]]] = True
        return found_N


def random_hit(num_films: int, num_related: int, k: int) -> float:
    """The probability that the first k of a random order of films hold a related one."""
    others = num_films - num_related
    if num_related == 0:
        return 0.0
    if k > others:
        return 1.0
    # Ways to choose k of the others, over ways to choose k of all.
    log_miss = _log_choices(others, k) - _log_choices(num_films, k)
    return -math.expm1(log_miss)


def _log_choices(num: int, k: int) -> float:
    return math.lgamma(num + 1) - math.lgamma(k + 1) - math.lgamma(num - k + 1)
