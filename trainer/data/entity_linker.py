"""People, films and genres that a text names without an @id, found by an Aho-Corasick gazetteer.

ReDial marks films alone; people and genres are in the plain text. The public pipeline sends it to
DBpedia Spotlight, whose cached results are noisy ("You" of "You should watch" is an entity) and not
available here; tests/unit/trainer/data/test_entity_linker.py measures this linker's precision.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import ahocorasick
import numpy as np

from trainer.data.entity_names import AMBIGUOUS_NAMES, GENRES
from trainer.data.knowledge_graph import KnowledgeGraph

MIN_NAME_LENGTH = 4
# DBpedia keeps stations of a career as entities "Andy_Serkis__1".
STATION_PATTERN = re.compile(r"__\d+$")
QUALIFIER_PATTERN = re.compile(r"(?<!\s)\s*\([^()]*\)$")


@dataclass(frozen=True, slots=True)
class Name:
    """A name and the entity that it stands for."""

    text: str
    entity: int
    exact: bool
    """Whether it must be written with its capitals: a film's title, or a single word."""


@dataclass(frozen=True, slots=True)
class Link:
    """Characters [start, end) of a text, and the entity that they name."""

    start: int
    end: int
    entity: int


class EntityLinker:
    """Longest match at word boundaries, left to right, over all names at once.

    Args:
        names: of two with the same letters the first one counts.
    """

    def __init__(self, names: Iterable[Name]) -> None:
        self._automaton = ahocorasick.Automaton()
        for name in names:
            key = _lower(name.text)
            if key not in self._automaton:
                self._automaton.add_word(key, name)
        self._automaton.make_automaton()

    def link(self, text: str) -> list[Link]:
        """The entities named in a text, in order, without overlap."""
        if not len(self._automaton):
            return []
        links: list[Link] = []
        free_from = 0
        for start, end, entity in sorted(self._matches(text), key=lambda it: (it[0], -it[1])):
            if start >= free_from:
                links.append(Link(start, end, entity))
                free_from = end
        return links

    def _matches(self, text: str) -> Iterator[tuple[int, int, int]]:
        for last, name in self._automaton.iter(_lower(text)):
            end = last + 1
            start = end - len(name.text)
            if not _is_whole(text, start, end):
                continue
            if not name.exact or text[start:end] == name.text:
                yield start, end, name.entity


def build_linker(entity_ids: Mapping[str, int], graph: KnowledgeGraph) -> EntityLinker:
    """A linker of genres, films, and entities that have an edge to a film.

    Args:
        entity_ids: key in entity2id.json -> entity id.
        graph: the films and their neighbours.
    """
    genres, others = [], []
    is_item_N = np.zeros(graph.num_entities, bool)
    is_item_N[graph.item_entities_I] = True
    degree_N = _film_degrees(graph, is_item_N)
    for key, entity in entity_ids.items():
        resource = unquote(key.strip("<>").rsplit("/resource/", 1)[-1])
        genres += [Name(alias, entity, exact=False) for alias in GENRES.get(resource, ())]
        if key.startswith("<") and (is_item_N[entity] or degree_N[entity]):
            others += _names(resource, entity, is_film=bool(is_item_N[entity]))
    # Of two with one name the film comes first, then the one with edges to more films.
    others.sort(key=lambda it: (not is_item_N[it.entity], -degree_N[it.entity], it.entity))
    return EntityLinker([*genres, *others])


def _names(resource: str, entity: int, *, is_film: bool) -> list[Name]:
    """A DBpedia resource as people write it, also without a last full stop (Jr.)."""
    if STATION_PATTERN.search(resource):
        return []
    title = resource.replace("_", " ").strip()
    text = QUALIFIER_PATTERN.sub("", title)
    if len(text) < MIN_NAME_LENGTH or _lower(text) in AMBIGUOUS_NAMES:
        return []
    is_word = " " not in text
    if is_word and text != title and not is_film:
        # Psycho (song), Batman (military): the word alone means the film.
        return []
    exact = is_film or is_word
    return [Name(form, entity, exact) for form in dict.fromkeys((text, text.removesuffix(".")))]


def _film_degrees(graph: KnowledgeGraph, is_item_N: np.ndarray) -> np.ndarray:
    """Edges between each entity and films, int64 [N]; a film's loop to itself is none."""
    heads_E, _, tails_E = graph.edges_E3.T
    between_E = heads_E != tails_E
    ends = [tails_E[between_E & is_item_N[heads_E]], heads_E[between_E & is_item_N[tails_E]]]
    return np.bincount(np.concatenate(ends), minlength=graph.num_entities)


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether no letter, digit or @ goes on before or after [start, end)."""
    before, after = text[start - 1 : start], text[end : end + 1]
    return not (before.isalnum() or before in ("@", "'")) and not after.isalnum()


def _lower(text: str) -> str:
    """Lower case of the same length: a few letters (I with dot above) would become two."""
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)
