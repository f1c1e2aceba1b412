from __future__ import annotations

import math

import numpy as np
import pytest

from tests.support.scoring_fakes import FILMS, tiny_graph
from trainer.data.knowledge_graph import KnowledgeGraph
from trainer.scoring.related_films import RelatedFilms, random_hit


def test_films_with_a_common_attribute_are_related_and_a_film_to_itself_over_it() -> None:
    related = RelatedFilms(tiny_graph(), FILMS)
    assert related.of(["1"]) == {"1", "5"}
    # An edge to itself leads nowhere, as does a film without edges.
    assert related.of(["7", "8"]) == frozenset()
    assert related.of([]) == frozenset()


def test_related_films_are_those_of_a_walk_over_the_triples() -> None:
    rng = np.random.default_rng(0)
    num_films, num_entities = 12, 30
    edges_E3 = np.stack(
        [rng.integers(0, num_entities, 25), np.zeros(25), rng.integers(0, num_entities, 25)], axis=1
    ).astype(np.int32)
    graph = KnowledgeGraph(
        edges_E3=edges_E3,
        num_entities=num_entities,
        num_relations=1,
        item_entities_I=rng.permutation(num_entities)[:num_films].astype(np.int32),
    )
    entity_of = dict(zip(FILMS, graph.item_entities_I.tolist(), strict=False))
    film_of = {entity: film for film, entity in entity_of.items()}
    pairs = {(int(h), int(t)) for h, _, t in edges_E3 if h != t}
    pairs |= {(t, h) for h, t in pairs}
    related = RelatedFilms(graph, FILMS[:num_films])
    for named in (["0"], ["1", "2"], ["3", "9", "11"]):
        one = {t for h, t in pairs if h in {entity_of[film] for film in named}}
        two = {t for h, t in pairs if h in one}
        assert related.of(named) == {film_of[it] for it in one | two if it in film_of}


@pytest.mark.parametrize("num_related", [0, 1, 3, 10])
@pytest.mark.parametrize("k", [1, 4, 8, 10, 50])
def test_random_hit_is_one_minus_the_share_of_draws_without_a_related_film(
    num_related: int, k: int
) -> None:
    num_films = 10
    drawn = min(k, num_films)
    miss = math.comb(num_films - num_related, drawn) / math.comb(num_films, drawn)
    assert random_hit(num_films, num_related, k) == pytest.approx(1 - miss)
