"""The films and people of the synthetic corpus, and the files of its knowledge graph.

F films.
"""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.common.atomic import write_bytes, write_json, write_text
from trainer.data.corpora import synthetic_text as words
from trainer.data.graph_files import ENTITIES_NAME, ITEMS_NAME, MOVIES_NAME, SUBGRAPH_NAME

CONCEPTS_NAME = "conceptnet-assertions-subset.csv.gz"
RESOURCE = "<http://dbpedia.org/resource/{}>"
URI_FORMS = ("{n}", "{n}_(film)", "{n}_({y}_film)")
RELATIONS = ("director", "starring", "genre", "birthPlace", "self_loop")

NUM_FILMS = 150
NUM_DIRECTORS = 14
NUM_ACTORS = 26
UNLINKED_SHARE = 0.08
"""Films without a page of their own, as one in nine of ReDial's."""
POPULARITY_EXPONENT = 0.7
"""Zipf: the film of rank r is mentioned in proportion to r ** -0.7, other things being equal."""


@dataclass(frozen=True, slots=True)
class Film:
    """A made-up film; people are indices into World.people, genres into the genres' names."""

    movie_id: str
    title: str
    entity: str
    genres: tuple[int, ...]
    director: int
    actors: tuple[int, ...]

    @property
    def is_linked(self) -> bool:
        """Whether the film has a page, and so edges in the graph besides its self-loop."""
        return self.entity != self.movie_id


@dataclass(frozen=True)
class World:
    """All films and people, and how films attract each other."""

    people: tuple[str, ...]
    films: tuple[Film, ...]
    log_popularity_F: np.ndarray
    similarity_FF: np.ndarray
    """float [F, F]: 2 for a shared director, 1.5 per shared actor, 1 per shared genre."""


def build_world(generator: np.random.Generator) -> World:
    """Draw people and films; people keep to a few genres, so that tastes have a shape."""
    names = [
        f"{first} {last}"
        for first in words.FIRST_NAMES.split()
        for last in words.LAST_NAMES.split()
    ]
    num_people = NUM_DIRECTORS + NUM_ACTORS
    people = tuple(names[i] for i in generator.choice(len(names), num_people, replace=False))
    num_genres = len(words.GENRES)
    home_genre = generator.permutation(np.arange(num_people) % num_genres)
    titles = [
        f"The {a} {n}" for a in words.TITLE_ADJECTIVES.split() for n in words.TITLE_NOUNS.split()
    ]
    drawn = generator.choice(len(titles), NUM_FILMS, replace=False)
    movie_ids = 75_000 + generator.choice(130_000, NUM_FILMS, replace=False)
    films = tuple(
        _draw_film(generator, str(movie_id), titles[title], home_genre)
        for movie_id, title in zip(movie_ids, drawn, strict=True)
    )
    rank_F = 1 + generator.permutation(NUM_FILMS)
    return World(
        people=people,
        films=films,
        log_popularity_F=-POPULARITY_EXPONENT * np.log(rank_F),
        similarity_FF=np.array([[_similarity(a, b) for b in films] for a in films]),
    )


def write_graph(folder: Path, world: World, generator: np.random.Generator) -> None:
    """Write the graph, the maps of entities and movies, and the word relations."""
    people = [RESOURCE.format(name.replace(" ", "_")) for name in world.people]
    genres = [RESOURCE.format(f"{name}_film") for name in words.GENRES]
    countries = [RESOURCE.format(name) for name in words.COUNTRIES]
    keys = [*(film.entity for film in world.films), *people, *genres, *countries]
    ids = {key: int(i) for key, i in zip(keys, generator.permutation(len(keys)), strict=True)}
    graph: dict[int, list[list[int]]] = {}

    def add(head: str, relation: str, tail: str) -> None:
        graph.setdefault(ids[head], []).append([RELATIONS.index(relation), ids[tail]])

    for film in world.films:
        add(film.entity, "self_loop", film.entity)
        if film.is_linked:
            add(film.entity, "director", people[film.director])
            for actor in film.actors:
                add(film.entity, "starring", people[actor])
            for genre in film.genres:
                add(film.entity, "genre", genres[genre])
    for person in people:
        add(person, "birthPlace", countries[generator.integers(len(countries))])
    subgraph = {str(head): sorted(graph[head]) for head in sorted(graph)}
    write_text(folder / SUBGRAPH_NAME, json.dumps(subgraph))
    write_json(folder / ENTITIES_NAME, dict(sorted(ids.items(), key=lambda item: item[1])))
    write_json(folder / MOVIES_NAME, {film.movie_id: film.entity for film in world.films})
    write_json(folder / ITEMS_NAME, sorted(ids[film.entity] for film in world.films))
    _write_concepts(folder / CONCEPTS_NAME)


def _draw_film(
    generator: np.random.Generator, movie_id: str, name: str, home_genre: np.ndarray
) -> Film:
    director = int(generator.integers(NUM_DIRECTORS))
    genre = int(home_genre[director])
    # Actors of the film's genre are four times as likely as others.
    weight = np.where(home_genre[NUM_DIRECTORS:] == genre, 4.0, 1.0)
    cast = generator.choice(NUM_ACTORS, 2, replace=False, p=weight / weight.sum())
    second = int(home_genre[NUM_DIRECTORS + cast[0]])
    year = int(generator.integers(1968, 2019))
    form = URI_FORMS[int(generator.choice(3, p=[0.2, 0.25, 0.55]))]
    is_linked = generator.random() >= UNLINKED_SHARE
    uri = RESOURCE.format(form.format(n=name.replace(" ", "_"), y=year))
    return Film(
        movie_id=movie_id,
        title=f"{name} ({year})",
        entity=uri if is_linked else movie_id,
        genres=(genre,) if second == genre else (genre, second),
        director=director,
        actors=tuple(int(NUM_DIRECTORS + actor) for actor in cast),
    )


def _similarity(a: Film, b: Film) -> float:
    shared_actors = len(set(a.actors) & set(b.actors))
    shared_genres = len(set(a.genres) & set(b.genres))
    return 2.0 * (a.director == b.director) + 1.5 * shared_actors + 1.0 * shared_genres


def _write_concepts(path: Path) -> None:
    lines = []
    for relation, head, tail in words.concept_rows():
        start, end = f"/c/en/{head}", f"/c/en/{tail}"
        about = json.dumps({"license": "cc:by/4.0", "weight": 1.0})
        lines.append(
            f"/a/[/r/{relation}/,{start}/,{end}/]\t/r/{relation}\t{start}\t{end}\t{about}\n"
        )
    buffer = io.BytesIO()
    # mtime 0: the same corpus gives the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:
        file.write("".join(lines).encode())
    write_bytes(path, buffer.getvalue())
