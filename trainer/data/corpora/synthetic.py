"""A small made-up corpus in ReDial's format, in which the graph decides the recommendations.

Films have genres, a director and actors. A seeker's liked films are drawn by taste and popularity;
recommended films share people and genres with the liked ones. So a model of the graph can predict
the recommendations, and a model of the text can predict the rest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.common.atomic import write_text
from trainer.common.errors import InputError
from trainer.data.corpora import redial
from trainer.data.corpora.synthetic_script import write_script
from trainer.data.corpora.synthetic_world import World, build_world, write_graph
from trainer.data.corpus import Corpus, check_conceptnet
from trainer.data.dialogue import Sender
from trainer.data.tokenizer import train_tokenizer


@dataclass(frozen=True, kw_only=True)
class CorpusSizes:
    """Dialogues per split."""

    train: int = 600
    valid: int = 60
    test: int = 80

    def __post_init__(self) -> None:
        if min(self.train, self.valid, self.test) < 1:
            raise InputError(f"dialogues must be at least 1 in each split, got {self}.")

    @staticmethod
    def for_train(num_train: int) -> CorpusSizes:
        """Sizes with the default's proportions, for a number of train dialogues."""
        return CorpusSizes(
            train=num_train, valid=max(1, num_train // 10), test=max(1, num_train * 2 // 15)
        )


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


def _dialogue_record(
    world: World, generator: np.random.Generator, dialogue_id: str
) -> dict[str, Any]:
    script = write_script(world, generator)
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


def _write(folder: Path, seed: int, num_train: int | None) -> None:
    sizes = CorpusSizes() if num_train is None else CorpusSizes.for_train(num_train)
    write_corpus(folder, seed=seed, sizes=sizes)


SYNTHETIC = Corpus(
    name="synthetic",
    needs=redial.NEEDS,
    read_splits=redial.read_splits,
    make_tokenizer=train_tokenizer,
    check_files=check_conceptnet,
    write=_write,
)
