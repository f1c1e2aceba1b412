"""The knowledge graph of movies: triples of entities, and the entity of each item.

E triples, I items.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from protos.fingerprint import digest_arrays
from trainer.atomic import write_bytes

GRAPH_NAME = "graph.safetensors"
SUBGRAPH_NAME = "dbpedia_subkg.json"
ENTITIES_NAME = "entity2id.json"
MOVIES_NAME = "movie2entity.json"
ITEMS_NAME = "item_ids.json"

BRACKETS_PATTERN = re.compile(r"\s*\(([^()]*)\)$")
YEAR_PATTERN = re.compile(r"\b(?:18|19|20)[0-9]{2}\b")


@dataclass(frozen=True, eq=False)
class KnowledgeGraph:
    """Typed edges between entities; movies without a page of their own are entities too."""

    edges_E3: np.ndarray
    """int32 [E, 3]: head entity, relation, tail entity; sorted."""
    num_entities: int
    num_relations: int
    item_entities_I: np.ndarray
    """int32 [I]: entity of item i, in the vocabulary's order; distinct."""

    def __post_init__(self) -> None:
        _check_array("edges_E3", self.edges_E3, ndim=2)
        _check_array("item_entities_I", self.item_entities_I, ndim=1)
        if self.edges_E3.shape[1] != 3:
            raise ValueError(f"edges_E3 must have 3 columns, got {self.edges_E3.shape[1]}.")
        _check_range("head entity", self.edges_E3[:, 0], self.num_entities)
        _check_range("relation", self.edges_E3[:, 1], self.num_relations)
        _check_range("tail entity", self.edges_E3[:, 2], self.num_entities)
        _check_range("item entity", self.item_entities_I, self.num_entities)
        if len(np.unique(self.item_entities_I)) != len(self.item_entities_I):
            raise ValueError("item_entities_I must be distinct: each movie needs its own entity.")

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of edges, sizes and item entities."""
        return digest_arrays(self._arrays())

    def save(self, folder: Path) -> None:
        """Write graph.safetensors into the folder."""
        write_bytes(folder / GRAPH_NAME, save(self._arrays()))

    @staticmethod
    def load(folder: Path) -> KnowledgeGraph:
        """The graph saved in a folder; ValueError if the file is torn or out of range."""
        path = folder / GRAPH_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{folder} must hold {GRAPH_NAME}, got none. Prepare the data.")
        try:
            arrays = load(path.read_bytes())
            num_entities, num_relations = (int(size) for size in arrays["sizes"])
            return KnowledgeGraph(
                edges_E3=arrays["edges_E3"],
                num_entities=num_entities,
                num_relations=num_relations,
                item_entities_I=arrays["item_entities_I"],
            )
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path} must be a knowledge graph, got {error}. Prepare the data again."
            ) from error

    def _arrays(self) -> dict[str, np.ndarray]:
        sizes = np.array([self.num_entities, self.num_relations], dtype=np.int64)
        return {
            "edges_E3": self.edges_E3,
            "item_entities_I": self.item_entities_I,
            "sizes": sizes,
        }


def read_movie_entities(folder: Path) -> dict[str, str]:
    """The catalogue: movie id -> key in entity2id.json (a URI, or the movie id itself)."""
    path = folder / MOVIES_NAME
    movies = _read_object(path)
    for movie_id, entity in movies.items():
        if not (movie_id.isascii() and movie_id.isdigit()):
            raise ValueError(f"{path}: a movie id must be a number, got {movie_id!r}.")
        if not isinstance(entity, str):
            raise ValueError(f"{path}: the entity of {movie_id} must be a string, got {entity!r}.")
    if not movies:
        raise ValueError(f"{path} must name at least one movie, got none.")
    return movies


def read_graph(folder: Path, movie_ids: Sequence[str]) -> KnowledgeGraph:
    """The graph of a ReDial folder, with the entity of each movie in the given order.

    Raises:
        FileNotFoundError: if one of the four files is missing.
        ValueError: naming file and value, if an id is out of range, a movie has no entity of its
            own, or item_ids.json is not exactly the movies' entities.
    """
    entity_ids = _read_entity_ids(folder / ENTITIES_NAME)
    movie_entities = read_movie_entities(folder)
    items = [_movie_entity(folder, movie_entities, entity_ids, movie) for movie in movie_ids]
    _check_item_ids(folder / ITEMS_NAME, items)
    edges_E3, num_relations = _read_edges(folder / SUBGRAPH_NAME, len(entity_ids))
    return KnowledgeGraph(
        edges_E3=edges_E3,
        num_entities=len(entity_ids),
        num_relations=num_relations,
        item_entities_I=np.array(items, dtype=np.int32),
    )


def readable_name(entity: str) -> str:
    """A DBpedia URI as a title: <.../Dark_Water_(2002_film)> -> "Dark Water (2002)".

    A last bracket that holds a year keeps the year alone; any other is dropped.
    """
    name = unquote(entity.strip("<>").rsplit("/resource/", 1)[-1]).replace("_", " ").strip()
    bracket = BRACKETS_PATTERN.search(name)
    if bracket is None or bracket.start() == 0:
        return name
    year = YEAR_PATTERN.search(bracket.group(1))
    return name[: bracket.start()] + (f" ({year.group()})" if year else "")


def _read_entity_ids(path: Path) -> dict[str, int]:
    entity_ids = _read_object(path)
    taken: dict[int, str] = {}
    for entity, entity_id in entity_ids.items():
        if not _is_id(entity_id, len(entity_ids)):
            raise ValueError(
                f"{path}: ids must be 0..{len(entity_ids) - 1}, got {entity_id!r} for {entity}."
            )
        if entity_id in taken:
            raise ValueError(
                f"{path}: ids must be distinct, got {entity_id} for {taken[entity_id]} "
                f"and {entity}."
            )
        taken[entity_id] = entity
    return entity_ids


def _movie_entity(
    folder: Path, movies: Mapping[str, str], entity_ids: Mapping[str, int], movie_id: str
) -> int:
    entity = movies.get(movie_id)
    if entity is None:
        raise ValueError(f"{folder / MOVIES_NAME}: movie {movie_id} must have an entity, got none.")
    if entity not in entity_ids:
        raise ValueError(
            f"{folder / MOVIES_NAME}: the entity of movie {movie_id} must be in {ENTITIES_NAME}, "
            f"got {entity}. Add it there."
        )
    return entity_ids[entity]


def _check_item_ids(path: Path, items: Iterable[int]) -> None:
    item_ids = _read_json(path)
    if not isinstance(item_ids, list) or not all(isinstance(item, int) for item in item_ids):
        raise ValueError(f"{path} must be a list of entity ids, got {item_ids!r:.60}.")
    expected: set[int] = set()
    for item in items:
        if item in expected:
            raise ValueError(
                f"{path.with_name(MOVIES_NAME)}: each movie must have its own entity, got entity "
                f"{item} for two movies."
            )
        expected.add(item)
    different = sorted(expected.symmetric_difference(item_ids))
    if different:
        where = "missing" if different[0] in expected else "not a movie's entity"
        raise ValueError(
            f"{path} must be exactly the entities of the movies, got {len(different)} that differ; "
            f"the first is {different[0]} ({where})."
        )


def _read_edges(path: Path, num_entities: int) -> tuple[np.ndarray, int]:
    edges: list[tuple[int, int, int]] = []
    for head, pairs in _read_object(path).items():
        if not (head.isascii() and head.isdigit() and int(head) < num_entities):
            raise ValueError(f"{path}: a head must be in [0, {num_entities}), got {head!r}.")
        if not isinstance(pairs, list):
            raise ValueError(f"{path}: head {head} must hold a list, got {pairs!r:.60}.")
        for pair in pairs:
            if not (isinstance(pair, list) and len(pair) == 2 and _is_id(pair[0], 1 << 16)):
                raise ValueError(
                    f"{path}: head {head} must hold [relation, tail] pairs, got {pair!r:.60}."
                )
            if not _is_id(pair[1], num_entities):
                raise ValueError(
                    f"{path}: a tail of head {head} must be in [0, {num_entities}), got {pair[1]}."
                )
            edges.append((int(head), pair[0], pair[1]))
    if not edges:
        raise ValueError(f"{path} must hold at least one triple, got none.")
    edges_E3 = np.array(sorted(edges), dtype=np.int32)
    return edges_E3, int(edges_E3[:, 1].max()) + 1


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a file, got none. Check the input folder.")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got {error}.") from error


def _read_object(path: Path) -> dict[str, Any]:
    content = _read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object, got a {type(content).__name__}.")
    return content


def _is_id(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def _check_array(name: str, array: np.ndarray, *, ndim: int) -> None:
    if array.dtype != np.int32 or array.ndim != ndim or len(array) == 0:
        raise ValueError(
            f"{name} must be a non-empty int32 array of {ndim} dimensions, got {array.dtype} "
            f"{array.shape}."
        )


def _check_range(name: str, ids: np.ndarray, limit: int) -> None:
    outside = ids[(ids < 0) | (ids >= limit)]
    if len(outside):
        raise ValueError(f"each {name} must be in [0, {limit}), got {outside[0]}.")
