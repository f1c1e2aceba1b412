"""Checks of a knowledge graph's files; every error names the file and the value."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from trainer.common.errors import InputError


def check_entity_ids(path: Path, content: Any) -> dict[str, int]:
    """Entity -> id, if the ids are 0..N-1, each once."""
    entity_ids = as_object(path, content)
    taken: dict[int, str] = {}
    for entity, entity_id in entity_ids.items():
        if not _is_id(entity_id, len(entity_ids)):
            raise InputError(
                f"{path}: ids must be 0..{len(entity_ids) - 1}, got {entity_id!r} for {entity}."
            )
        if entity_id in taken:
            raise InputError(
                f"{path}: ids must be distinct, got {entity_id} for {taken[entity_id]} "
                f"and {entity}."
            )
        taken[entity_id] = entity
    return entity_ids


def check_movie_entities(path: Path, content: Any, entity_ids: dict[str, int]) -> dict[str, str]:
    """Movie id -> entity, if each movie is a number and has an entity of its own."""
    movies = as_object(path, content)
    owner: dict[str, str] = {}
    for movie_id, entity in movies.items():
        if not (movie_id.isascii() and movie_id.isdigit()):
            raise InputError(f"{path}: a movie id must be a number, got {movie_id!r}.")
        if not isinstance(entity, str):
            raise InputError(f"{path}: the entity of {movie_id} must be a string, got {entity!r}.")
        if entity not in entity_ids:
            raise InputError(
                f"{path}: the entity of movie {movie_id} must be among the entities, got {entity}. "
                "Add it there."
            )
        if entity in owner:
            raise InputError(
                f"{path}: each movie must have its own entity, got {entity} for {owner[entity]} "
                f"and {movie_id}."
            )
        owner[entity] = movie_id
    if not movies:
        raise InputError(f"{path} must name at least one movie, got none.")
    return movies


def check_items(path: Path, item_ids: Any, movies: Iterable[int]) -> None:
    """Raise InputError unless the items are exactly the movies' entity ids."""
    if not isinstance(item_ids, list) or not all(isinstance(item, int) for item in item_ids):
        raise InputError(f"{path} must be a list of entity ids, got {item_ids!r:.60}.")
    expected = set(movies)
    different = sorted(expected.symmetric_difference(item_ids))
    if different:
        where = "missing" if different[0] in expected else "not a movie's entity"
        raise InputError(
            f"{path} must be exactly the entities of the movies, got {len(different)} that differ; "
            f"the first is {different[0]} ({where})."
        )


def check_edges(path: Path, content: Any, num_entities: int) -> np.ndarray:
    """Triples, int32 [E, 3], sorted, from head -> [relation, tail] pairs."""
    heads = as_object(path, content)
    edges: list[tuple[int, int, int]] = []
    for head, pairs in heads.items():
        if not (head.isascii() and head.isdigit() and int(head) < num_entities):
            raise InputError(f"{path}: a head must be in [0, {num_entities}), got {head!r}.")
        if not isinstance(pairs, list):
            raise InputError(f"{path}: head {head} must hold a list, got {pairs!r:.60}.")
        for pair in pairs:
            if not (isinstance(pair, list) and len(pair) == 2 and _is_id(pair[0], 1 << 16)):
                raise InputError(
                    f"{path}: head {head} must hold [relation, tail] pairs, got {pair!r:.60}."
                )
            if not _is_id(pair[1], num_entities):
                raise InputError(
                    f"{path}: a tail of head {head} must be in [0, {num_entities}), got {pair[1]}."
                )
            edges.append((int(head), pair[0], pair[1]))
    if not edges:
        raise InputError(f"{path} must hold at least one triple, got none.")
    return np.array(sorted(edges), dtype=np.int32)


def as_object(path: Path, content: Any) -> dict[str, Any]:
    """The content, if it is a JSON object."""
    if not isinstance(content, dict):
        raise InputError(f"{path} must be a JSON object, got a {type(content).__name__}.")
    return content


def _is_id(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit
