"""A small made-up corpus in ReDial's format, in which the graph decides the recommendations.

Films have genres, a director and actors. A seeker's liked films are drawn by taste and popularity;
recommended films share people and genres with the liked ones. So a model of the graph can predict
the recommendations, and a model of the text can predict the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trainer.common.atomic import write_text
from trainer.data import synthetic_text as words
from trainer.data.redial import Dialogue, Sender, split_mentions
from trainer.data.synthetic_world import World, build_world, write_graph
from trainer.data.tokenizer import END_OF_TEXT

MAX_BASE_TOKENS = 2_000

LIKE_PULL = 1.5
RECOMMEND_PULL = 3.0
"""Log-odds per unit of similarity, to the taste and to the liked films; larger is sharper."""


@dataclass(frozen=True, kw_only=True)
class CorpusSizes:
    """Dialogues per split."""

    train: int = 600
    valid: int = 60
    test: int = 80

    def __post_init__(self) -> None:
        if min(self.train, self.valid, self.test) < 1:
            raise ValueError(f"dialogues must be at least 1 in each split, got {self}.")

    @staticmethod
    def for_train(num_train: int) -> CorpusSizes:
        """Sizes with the default's proportions, for a number of train dialogues."""
        return CorpusSizes(
            train=num_train, valid=max(1, num_train // 10), test=max(1, num_train * 2 // 15)
        )


@dataclass
class Script:
    """A dialogue being written: what was said, and which films may come next."""

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


def write_corpus(folder: Path, *, seed: int = 0, sizes: CorpusSizes | None = None) -> None:
    """Write the files of a ReDial folder; the same seed writes the same bytes."""
    sizes = sizes or CorpusSizes()
    generator = np.random.default_rng(seed)
    world = build_world(generator)
    write_graph(folder, world, generator)
    first = 1
    for split, count in (("train", sizes.train), ("valid", sizes.valid), ("test", sizes.test)):
        records = (_dialogue_record(world, generator, str(first + i)) for i in range(count))
        content = "".join(f"{json.dumps(record)}\n" for record in records)
        write_text(folder / f"{split}_data.jsonl", content)
        first += count


def train_tokenizer(
    dialogues: Sequence[Dialogue], titles: Sequence[str]
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most MAX_BASE_TOKENS tokens, fitted on the texts and the titles."""
    texts = [
        piece
        for dialogue in dialogues
        for message in dialogue.messages
        for piece in split_mentions(message.text, dialogue.titles)
        if isinstance(piece, str)
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_BASE_TOKENS,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *(f" {title}" for title in titles)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT
    )


def _write_script(world: World, generator: np.random.Generator) -> Script:
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


def _dialogue_record(
    world: World, generator: np.random.Generator, dialogue_id: str
) -> dict[str, Any]:
    script = _write_script(world, generator)
    seeker, recommender = (int(worker) for worker in generator.choice(900, 2, replace=False))
    workers: dict[Sender, int] = {"seeker": seeker, "recommender": recommender}
    messages = [
        {
            "timeOffset": 15 * index,
            "text": text,
            "senderWorkerId": workers[sender],
            "messageId": 100 * int(dialogue_id) + index,
        }
        for index, (sender, text) in enumerate(script.lines)
    ]
    answers = {
        world.films[film].movie_id: {
            "suggested": int(film in script.recommended),
            "seen": 1,
            "liked": 1,
        }
        for film in (*script.liked, *script.recommended)
    }
    return {
        "movieMentions": {
            world.films[film].movie_id: world.films[film].title
            for film in (*script.liked, *script.recommended)
        },
        # ReDial writes an unanswered form as an empty list.
        "respondentQuestions": answers if generator.random() < 0.95 else [],
        "messages": messages,
        "conversationId": dialogue_id,
        "respondentWorkerId": recommender,
        "initiatorWorkerId": seeker,
        "initiatorQuestions": answers,
    }
