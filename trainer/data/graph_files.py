"""The files of a knowledge graph: JSON, or KGSF's pickles.

| JSON | pickle | holds |
|---|---|---|
| entity2id.json | entity2entityId.pkl | entity (URI, or movie id) -> id |
| movie2entity.json | id2entity.pkl | movie id -> entity; None in the pickle: the movie itself |
| item_ids.json | movie_ids.pkl | entity ids of the movies |
| dbpedia_subkg.json | subkg.pkl | head -> [relation, tail] pairs |
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.common.errors import InputError, MissingError
from trainer.data.graph_checks import (
    check_edges,
    check_entity_ids,
    check_items,
    check_movie_entities,
)
from trainer.data.graph_pickles import (
    pickled_entities,
    pickled_heads,
    pickled_movies,
    read_pickle,
)
from trainer.data.raw_graph import RawGraph

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
REMEDY = (
    "Name its folder with --graph; fetch it with: "
    "python -m trainer.data download dbpedia --output DIR"
)
_FROM_PICKLE: dict[str, Callable[[Path, Any], Any]] = {
    ENTITIES_NAME: pickled_entities,
    MOVIES_NAME: pickled_movies,
    ITEMS_NAME: lambda path, content: content,
    SUBGRAPH_NAME: pickled_heads,
}


def read_graph_files(folder: Path) -> RawGraph:
    """Read and check the four files; pickles if there is no entity2id.json.

    Raises:
        MissingError: if one of them is missing.
        InputError: naming file and value, if an id is out of range, a movie has no entity of its
            own, the items are not exactly the movies' entities, or a pickle asks for more than
            plain containers.
    """
    if not folder.is_dir():
        raise MissingError(f"the knowledge graph must be in a folder, got {folder}. {REMEDY}")
    is_pickled = (
        not (folder / ENTITIES_NAME).exists() and (folder / PICKLES[ENTITIES_NAME]).exists()
    )
    read = _read_pickled if is_pickled else _read_json
    entity_ids = check_entity_ids(*read(folder, ENTITIES_NAME))
    movie_entities = check_movie_entities(*read(folder, MOVIES_NAME), entity_ids)
    check_items(*read(folder, ITEMS_NAME), [entity_ids[it] for it in movie_entities.values()])
    edges_E3 = check_edges(*read(folder, SUBGRAPH_NAME), len(entity_ids))
    return RawGraph(entity_ids=entity_ids, movie_entities=movie_entities, edges_E3=edges_E3)


def _read_json(folder: Path, name: str) -> tuple[Path, Any]:
    path = folder / name
    if not path.is_file():
        raise MissingError(f"{path} must be a file of the knowledge graph, got none. {REMEDY}")
    try:
        return path, json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} must be JSON, got {error}. Fetch it again, or name another folder: --graph"
        ) from error


def _read_pickled(folder: Path, name: str) -> tuple[Path, Any]:
    """The content of a pickle, in the form that the JSON file of this name has."""
    path = folder / PICKLES[name]
    return path, _FROM_PICKLE[name](path, read_pickle(path))
