"""One dialogue of the synthetic corpus: its turns, and the films they mention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.data.corpora import synthetic_text as words
from trainer.data.corpora.synthetic_world import World
from trainer.data.dialogue import Sender

LIKE_PULL = 1.5
RECOMMEND_PULL = 3.0
"""Log-odds per unit of similarity, to the taste and to the liked films; larger is sharper."""


@dataclass
class Script:
    """A dialogue being written: its turns so far, and the films that may come next."""

    world: World
    generator: np.random.Generator
    taste: int
    """A film that is never named; its genres and people are what the seeker is after."""
    lines: list[tuple[Sender, str]] = field(default_factory=list)
    liked: list[int] = field(default_factory=list)
    recommended: list[int] = field(default_factory=list)

    def say(self, sender: Sender, templates: tuple[str, ...], films: Sequence[int] = ()) -> None:
        """Add a turn; its slots speak of the given films, or of the taste where none is given."""
        text = words.pick(templates, self.generator)
        if "{film}" in text:  # Only a wish names a film that is not asked for.
            films = self.like(1)
        about = self.world.films[films[0] if films else self.taste]
        genre_words = list(words.GENRES.values())[self._choose(about.genres)]
        mentions = [f"@{self.world.films[film].movie_id}" for film in films]
        text = text.format(
            film=mentions[0] if mentions else "",
            films=" and ".join(mentions),
            genre=genre_words[self.generator.integers(len(genre_words))],
            person=self.world.people[self._choose((about.director, *about.actors))],
            director=self.world.people[about.director],
            actor=self.world.people[self._choose(about.actors)],
        )
        if self.generator.random() < 0.5:
            text = text[:1].upper() + text[1:]
        self.lines.append((sender, text))

    def like(self, count: int) -> list[int]:
        """Films to the seeker's taste, by popularity; remembered as liked."""
        pull_F = LIKE_PULL * self.world.similarity_FF[self.taste]
        return [self._draw(pull_F, into=self.liked) for _ in range(count)]

    def recommend(self, count: int) -> list[int]:
        """Films that share people and genres with those liked, by popularity."""
        pull_F = RECOMMEND_PULL * self.world.similarity_FF[self.liked].mean(axis=0)
        return [self._draw(pull_F, into=self.recommended) for _ in range(count)]

    def _draw(self, pull_F: np.ndarray, *, into: list[int]) -> int:
        score_F = pull_F + self.world.log_popularity_F
        score_F[[self.taste, *self.liked, *self.recommended]] = -np.inf
        weight_F = np.exp(score_F - score_F.max())
        film = int(self.generator.choice(len(weight_F), p=weight_F / weight_F.sum()))
        into.append(film)
        return film

    def _choose(self, options: Sequence[int]) -> int:
        return options[int(self.generator.integers(len(options)))]


def write_script(world: World, generator: np.random.Generator) -> Script:
    """A dialogue from greeting to goodbye, about a taste that is drawn first."""
    script = Script(world, generator, taste=int(generator.integers(len(world.films))))
    seeker_opens = generator.random() < 0.6
    if seeker_opens:
        script.say("seeker", words.GREETINGS)
    script.say("recommender", words.GREETINGS)
    script.say("recommender", words.ASKS)
    script.say("seeker", words.WISHES)
    if not script.liked or generator.random() < 0.5:
        script.say("recommender", words.PROBES)
        script.say("seeker", words.LIKES, script.like(int(generator.integers(1, 3))))
    num_rounds = int(generator.choice([1, 2, 3], p=[0.15, 0.35, 0.5]))
    for round_index in range(num_rounds):
        if round_index:
            script.say("seeker", words.MORES)
        count = 2 if generator.random() < 0.25 else 1
        script.say("recommender", words.RECOMMENDATIONS, script.recommend(count))
    script.say("seeker", words.ACCEPTS)
    if generator.random() < 0.4:
        script.say("recommender", words.DETAILS, script.recommended[-1:])
    script.say("seeker", words.THANKS)
    if generator.random() < 0.8:
        script.say("recommender", words.CLOSINGS)
    return script
