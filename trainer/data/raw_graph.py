"""A corpus's knowledge graph before it is numbered in the vocabulary's order.

N entities, E triples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.common.errors import InputError
from trainer.data.knowledge_graph import KnowledgeGraph


@dataclass(frozen=True, kw_only=True)
class RawGraph:
    """Entities, the movies among them, and triples."""

    entity_ids: dict[str, int]
    """Entity -> 0..N-1. The name is a DBpedia URI in angle brackets, or a movie id if the movie has
    no page."""
    movie_entities: dict[str, str]
    """The catalogue: movie id (a number) -> its entity."""
    edges_E3: np.ndarray
    """int32 [E, 3]: head, relation, tail; sorted."""

    def __post_init__(self) -> None:
        if sorted(self.entity_ids.values()) != list(range(len(self.entity_ids))):
            raise InputError(
                f"entity ids must be 0..{len(self.entity_ids) - 1}, each once. Number them again."
            )
        unknown = [it for it in self.movie_entities.values() if it not in self.entity_ids]
        if unknown:
            raise InputError(
                f"each movie's entity must be among the entities, got {unknown[0]}. Add it there."
            )

    @property
    def unlinked_movies(self) -> list[str]:
        """Movies without a DBpedia page: each is its own entity."""
        return [movie for movie, entity in self.movie_entities.items() if movie == entity]

    def graph(self, movie_ids: Sequence[str]) -> KnowledgeGraph:
        """The graph, with the entity of each movie in the given order."""
        items = [self.entity_ids[self.movie_entities[movie_id]] for movie_id in movie_ids]
        return KnowledgeGraph(
            edges_E3=self.edges_E3,
            num_entities=len(self.entity_ids),
            num_relations=int(self.edges_E3[:, 1].max()) + 1,
            item_entities_I=np.array(items, dtype=np.int32),
        )
