"""The knowledge graph of movies: triples of entities, and the entity of each item.

E triples, I items.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from protos.fingerprint import digest_arrays
from trainer.common.atomic import write_bytes
from trainer.common.errors import InputError, MissingError

GRAPH_NAME = "graph.safetensors"

BRACKETS_PATTERN = re.compile(r"(?<!\s)\s*\(([^()]*)\)$")
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
            raise InputError(f"edges_E3 must have 3 columns, got {self.edges_E3.shape[1]}.")
        _check_range("head entity", self.edges_E3[:, 0], self.num_entities)
        _check_range("relation", self.edges_E3[:, 1], self.num_relations)
        _check_range("tail entity", self.edges_E3[:, 2], self.num_entities)
        _check_range("item entity", self.item_entities_I, self.num_entities)
        if len(np.unique(self.item_entities_I)) != len(self.item_entities_I):
            raise InputError("item_entities_I must be distinct: each movie needs its own entity.")

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
            raise MissingError(f"{folder} must hold {GRAPH_NAME}, got none. Prepare the data.")
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
            raise InputError(
                f"{path} must be a knowledge graph, got {error}. Prepare the data again."
            ) from error

    def _arrays(self) -> dict[str, np.ndarray]:
        sizes = np.array([self.num_entities, self.num_relations], dtype=np.int64)
        return {
            "edges_E3": self.edges_E3,
            "item_entities_I": self.item_entities_I,
            "sizes": sizes,
        }


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


def _check_array(name: str, array: np.ndarray, *, ndim: int) -> None:
    if array.dtype != np.int32 or array.ndim != ndim or len(array) == 0:
        raise InputError(
            f"{name} must be a non-empty int32 array of {ndim} dimensions, got {array.dtype} "
            f"{array.shape}."
        )


def _check_range(name: str, ids: np.ndarray, limit: int) -> None:
    outside = ids[(ids < 0) | (ids >= limit)]
    if len(outside):
        raise InputError(f"each {name} must be in [0, {limit}), got {outside[0]}.")
