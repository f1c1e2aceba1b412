"""The pickles of the knowledge graph that KGSF published, read without importing anything."""

from __future__ import annotations

import builtins
import collections
import io
import pickle
from pathlib import Path
from typing import Any

from trainer.common.errors import InputError, MissingError
from trainer.data.graph_checks import as_object

MAX_PICKLE_BYTES = 1 << 27
ALLOWED_GLOBALS = {
    ("collections", "defaultdict"): collections.defaultdict,
    ("builtins", "list"): builtins.list,
    # As Python 2 and protocol 2 name it.
    ("__builtin__", "list"): builtins.list,
}


class ContainerUnpickler(pickle.Unpickler):
    """Reads numbers, strings and plain containers, and refuses to import anything else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """One of ALLOWED_GLOBALS; pickle.UnpicklingError otherwise."""
        if (module_name, global_name) not in ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return ALLOWED_GLOBALS[module_name, global_name]


def read_pickle(path: Path) -> Any:
    """The plain containers that a pickle holds.

    Raises:
        MissingError: if there is no such file.
        InputError: if it is too large, torn, or asks for more than plain containers.
    """
    if not path.is_file():
        raise MissingError(
            f"{path} must be a file, got none. Name the folder of the graph with --graph."
        )
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise InputError(
            f"{path} must be at most {MAX_PICKLE_BYTES} bytes, got {path.stat().st_size}."
        )
    try:
        return ContainerUnpickler(io.BytesIO(path.read_bytes())).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError) as error:
        raise InputError(
            f"{path} must be a pickle of plain containers, got: {error}. "
            "Do not open it otherwise; fetch it again: python -m trainer.data download dbpedia"
        ) from error


def pickled_entities(path: Path, content: Any) -> Any:
    """Entity -> id; a movie without a page is a number in the pickle."""
    return {str(entity): number for entity, number in as_object(path, content).items()}


def pickled_movies(path: Path, content: Any) -> Any:
    """Movie id -> entity; a movie without a DBpedia page (None) is its own entity."""
    return {
        str(movie): str(movie) if entity is None else entity
        for movie, entity in as_object(path, content).items()
    }


def pickled_heads(path: Path, content: Any) -> Any:
    """Head -> [relation, tail] pairs, which are tuples in the pickle."""
    return {
        str(head): [list(pair) if isinstance(pair, tuple) else pair for pair in pairs]
        if isinstance(pairs, list)
        else pairs
        for head, pairs in as_object(path, content).items()
    }
