"""The files of a knowledge graph: JSON as the corpora of this project have it, or KGSF's pickles.

| JSON | pickle | holds |
|---|---|---|
| entity2id.json | entity2entityId.pkl | entity (URI, or movie id) -> id |
| movie2entity.json | id2entity.pkl | movie id -> entity; None in the pickle: the movie itself |
| item_ids.json | movie_ids.pkl | entity ids of the movies |
| dbpedia_subkg.json | subkg.pkl | head -> [relation, tail] pairs |
"""

from __future__ import annotations

import builtins
import collections
import io
import json
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.knowledge_graph import KnowledgeGraph

ENTITIES_NAME = "entity2id.json"
MOVIES_NAME = "movie2entity.json"
ITEMS_NAME = "item_ids.json"
SUBGRAPH_NAME = "dbpedia_subkg.json"
PICKLES = {
    ENTITIES_NAME: "entity2entityId.pkl",
    MOVIES_NAME: "id2entity.pkl",
    ITEMS_NAME: "movie_ids.pkl",
    SUBGRAPH_NAME: "subkg.pkl",
}
MAX_PICKLE_BYTES = 1 << 27
ALLOWED_GLOBALS = {
    ("collections", "defaultdict"): collections.defaultdict,
    ("builtins", "list"): builtins.list,
    # As Python 2 and protocol 2 name it.
    ("__builtin__", "list"): builtins.list,
}


@dataclass(frozen=True, kw_only=True)
class GraphFiles:
    """What the four files of one folder hold, checked against each other."""

    entity_ids: dict[str, int]
    """Entity (a URI in angle brackets, or a movie id) -> 0..N-1."""
    movie_entities: dict[str, str]
    """The catalogue: movie id -> its entity."""
    edges_E3: np.ndarray
    """int32 [E, 3]: head, relation, tail; sorted."""

    def graph(self, movie_ids: Sequence[str]) -> KnowledgeGraph:
        """The graph, with the entity of each movie in the given order."""
        items = [self.entity_ids[self.movie_entities[movie_id]] for movie_id in movie_ids]
        return KnowledgeGraph(
            edges_E3=self.edges_E3,
            num_entities=len(self.entity_ids),
            num_relations=int(self.edges_E3[:, 1].max()) + 1,
            item_entities_I=np.array(items, dtype=np.int32),
        )


def read_graph_files(folder: Path) -> GraphFiles:
    """Read and check the four files; pickles where there is no entity2id.json.

    Raises:
        FileNotFoundError: if one of them is missing.
        ValueError: naming file and value, if an id is out of range, a movie has no entity of its
            own, the items are not exactly the movies' entities, or a pickle asks for more than
            plain containers.
    """
    pickled = not (folder / ENTITIES_NAME).exists() and (folder / PICKLES[ENTITIES_NAME]).exists()
    read = _read_pickled if pickled else _read_json
    entities_path, entities = read(folder, ENTITIES_NAME)
    entity_ids = _entity_ids(entities_path, _object(entities_path, entities))
    movies_path, movies = read(folder, MOVIES_NAME)
    movie_entities = _movie_entities(movies_path, _object(movies_path, movies), entity_ids)
    items_path, items = read(folder, ITEMS_NAME)
    _check_items(items_path, items, [entity_ids[entity] for entity in movie_entities.values()])
    edges_path, heads = read(folder, SUBGRAPH_NAME)
    edges_E3 = _edges(edges_path, _object(edges_path, heads), len(entity_ids))
    return GraphFiles(entity_ids=entity_ids, movie_entities=movie_entities, edges_E3=edges_E3)


class ContainerUnpickler(pickle.Unpickler):
    """Reads numbers, strings and plain containers, and refuses to import anything else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """One of ALLOWED_GLOBALS; pickle.UnpicklingError otherwise."""
        if (module_name, global_name) not in ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return ALLOWED_GLOBALS[module_name, global_name]


def _read_json(folder: Path, name: str) -> tuple[Path, Any]:
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must be a file, got none. Name the folder of the graph with --graph."
        )
    try:
        return path, json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got {error}.") from error


def _read_pickled(folder: Path, name: str) -> tuple[Path, Any]:
    """The content of a pickle, in the form that the JSON file of this name has."""
    path = folder / PICKLES[name]
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must be a file, got none. Name the folder of the graph with --graph."
        )
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise ValueError(
            f"{path} must be at most {MAX_PICKLE_BYTES} bytes, got {path.stat().st_size}."
        )
    try:
        content = ContainerUnpickler(io.BytesIO(path.read_bytes())).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError) as error:
        raise ValueError(
            f"{path} must be a pickle of plain containers, got: {error}. "
            "Do not open it otherwise; fetch it again: python -m trainer.data download dbpedia"
        ) from error
    return path, _CONVERSIONS[name](path, content)


def _pickled_entities(path: Path, content: Any) -> Any:
    return {str(entity): number for entity, number in _object(path, content).items()}


def _pickled_movies(path: Path, content: Any) -> Any:
    # A movie without a DBpedia page is its own entity.
    return {
        str(movie): str(movie) if entity is None else entity
        for movie, entity in _object(path, content).items()
    }


def _pickled_heads(path: Path, content: Any) -> Any:
    return {
        str(head): [list(pair) if isinstance(pair, tuple) else pair for pair in pairs]
        if isinstance(pairs, list)
        else pairs
        for head, pairs in _object(path, content).items()
    }


_CONVERSIONS: dict[str, Callable[[Path, Any], Any]] = {
    ENTITIES_NAME: _pickled_entities,
    MOVIES_NAME: _pickled_movies,
    ITEMS_NAME: lambda path, content: content,
    SUBGRAPH_NAME: _pickled_heads,
}


def _entity_ids(path: Path, entity_ids: dict[str, Any]) -> dict[str, int]:
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


def _movie_entities(
    path: Path, movies: dict[str, Any], entity_ids: dict[str, int]
) -> dict[str, str]:
    owner: dict[str, str] = {}
    for movie_id, entity in movies.items():
        if not (movie_id.isascii() and movie_id.isdigit()):
            raise ValueError(f"{path}: a movie id must be a number, got {movie_id!r}.")
        if not isinstance(entity, str):
            raise ValueError(f"{path}: the entity of {movie_id} must be a string, got {entity!r}.")
        if entity not in entity_ids:
            raise ValueError(
                f"{path}: the entity of movie {movie_id} must be among the entities, got {entity}. "
                "Add it there."
            )
        if entity in owner:
            raise ValueError(
                f"{path}: each movie must have its own entity, got {entity} for {owner[entity]} "
                f"and {movie_id}."
            )
        owner[entity] = movie_id
    if not movies:
        raise ValueError(f"{path} must name at least one movie, got none.")
    return movies


def _check_items(path: Path, item_ids: Any, movies: Iterable[int]) -> None:
    if not isinstance(item_ids, list) or not all(isinstance(item, int) for item in item_ids):
        raise ValueError(f"{path} must be a list of entity ids, got {item_ids!r:.60}.")
    expected = set(movies)
    different = sorted(expected.symmetric_difference(item_ids))
    if different:
        where = "missing" if different[0] in expected else "not a movie's entity"
        raise ValueError(
            f"{path} must be exactly the entities of the movies, got {len(different)} that differ; "
            f"the first is {different[0]} ({where})."
        )


def _edges(path: Path, heads: dict[str, Any], num_entities: int) -> np.ndarray:
    edges: list[tuple[int, int, int]] = []
    for head, pairs in heads.items():
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
    return np.array(sorted(edges), dtype=np.int32)


def _object(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object, got a {type(content).__name__}.")
    return content


def _is_id(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit
