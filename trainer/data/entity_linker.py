"""People, films and genres that a text names without an @id, found by an Aho-Corasick gazetteer.

ReDial marks films alone; who should play in them and which kind is wanted stands in the plain text.
The public chain asks DBpedia Spotlight there, whose cached answers are noisy ("You" of "You should
watch" is an entity) and not at hand; tests/unit/trainer/data/test_entity_linker.py measures the
precision of this linker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import ahocorasick
import numpy as np

from trainer.data.knowledge_graph import KnowledgeGraph

MIN_NAME_LENGTH = 4
# DBpedia keeps stations of a career as entities "Andy_Serkis__1".
STATION_PATTERN = re.compile(r"__\d+$")
QUALIFIER_PATTERN = re.compile(r"\s*\([^()]*\)$")

GENRES: dict[str, tuple[str, ...]] = {
    "Action_film": ("action", "action film", "action films", "action movie", "action movies"),
    "Adventure_fiction": ("adventure", "adventures"),
    "Animation": ("animation", "animated", "animations"),
    "Anime": ("anime",),
    "Black_comedy": ("dark comedy", "dark comedies", "black comedy", "black comedies"),
    "Comedy_film": ("comedy", "comedies", "comedic"),
    "Crime_film": ("crime", "crime film", "crime movie", "crime movies"),
    "Documentary_film": ("documentary", "documentaries"),
    "Drama_film": ("drama", "dramas"),
    "Family_film": ("family film", "family films", "family movie", "family movies"),
    "Fantasy": ("fantasy",),
    "Horror_film": ("horror", "scary movie", "scary movies", "scary film", "scary films"),
    "Martial_arts_film": ("martial arts",),
    "Musical_film": ("musical", "musicals"),
    "Mystery_film": ("mystery", "mysteries"),
    "Parody": ("parody", "parodies", "spoof", "spoofs"),
    "Romantic_comedy": (
        *("romantic comedy", "romantic comedies", "romcom", "romcoms"),
        *("rom com", "rom coms", "rom-com", "rom-coms"),
    ),
    "Romantic_drama_film": ("romance", "romances", "romantic"),
    "Science_fiction": ("science fiction", "sci fi", "sci-fi", "scifi"),
    "Superhero_film": ("superhero", "superheroes", "super hero", "super heroes", "superheros"),
    "Thriller_(genre)": ("thriller", "thrillers"),
    "Western_(genre)": ("western", "westerns"),
}
"""DBpedia name of a genre -> how seekers call it, in lower case; only those in the graph count."""

AMBIGUOUS_NAMES = frozenset({
    *("action", "adventure", "again", "alive", "always", "america", "american", "amazing"),
    *("arrival", "australia", "awake", "awesome", "baby", "best", "black", "bird", "brothers"),
    *("cars", "china", "christmas", "click", "clown", "college", "comedy", "common", "crazy"),
    *("date night", "dead", "drama", "dreams", "dude", "easy", "england", "english", "enough"),
    *("epic", "everyone", "family", "fame", "fear", "flick", "france", "free", "friday", "friend"),
    *("friends", "game", "girls", "gold", "gone", "good time", "great", "haha", "happy"),
    *("haven", "hello", "help!", "here", "hero", "holiday", "holidays", "hollywood", "home"),
    *("animal", "hope", "house", "india", "indian", "italy", "jack", "jane", "japan", "japanese"),
    *("johnson", "july", "june"),
    *("just", "justice", "kids", "killers", "king", "korean", "life", "like", "loved", "lost"),
    *("love story", "mark", "maybe", "monday", "money", "monster", "morgan", "mother", "movie"),
    *("music", "next", "nice", "nothing", "october", "once", "parents", "perfect", "prince"),
    *("princess", "really", "remember", "rent", "rings", "robin", "romance", "russia", "saturday"),
    *("serial", "seven", "sister", "sisters", "smile", "something new", "spanish", "spider"),
    *("stay", "still", "summer", "sunday", "super", "superhero movie", "sure"),
    *("take", "taken", "texas", "thanksgiving", "them", "then", "they", "thriller", "time"),
    *("tonight", "trust", "very", "vietnam", "waiting", "wanted", "water", "weekend", "well"),
    *("what", "when", "wild", "with", "world", "writer", "wrong", "yeah", "your", "zombie"),
    *("anything else", "checking out", "coming home", "get out", "get ready", "good kids"),
    *("old school", "sad movie", "the actors", "the comedy", "the conversation", "the end"),
    *("the family", "the kid", "the one", "the other", "the others", "the thriller", "up there"),
    *("13th", "aliens", "the rock", "valentine's day"),
    *("all the way", "you laugh", "young adult", "my life", "date movie", "funny people"),
})  # fmt: skip
"""Names in lower case that are never linked: in such talk they mostly mean something else."""


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
    """A linker of genres, films, and whatever has an edge to a film.

    Args:
        entity_ids: key in entity2id.json -> entity id.
        graph: tells the films and their neighbours.
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
    # Of two of one name a film, then the one that more films know.
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
        # Psycho (song), Batman (military): who writes the word alone means the film.
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
