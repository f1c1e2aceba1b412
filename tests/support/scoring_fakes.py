"""A split of two dialogues whose scores can be worked out by hand, and what a system says in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.dialogue import FilmAnswers, Questionnaires
from trainer.data.knowledge_graph import KnowledgeGraph
from trainer.data.stored_dialogues import StoredDialogue, StoredMessage
from trainer.scoring.records import Record, Slot
from trainer.scoring.related_films import RelatedFilms
from trainer.scoring.scored_split import Instance, ScoredSplit, Turn

NUM_FILMS = 100
FILMS = tuple(str(number) for number in range(NUM_FILMS))
ACTOR = NUM_FILMS
"""An entity that plays in films 1 and 5."""


def tiny_graph() -> KnowledgeGraph:
    """Films 1 and 5 share an actor; film 7 has an edge to itself."""
    return KnowledgeGraph(
        edges_E3=np.array([[1, 0, ACTOR], [5, 0, ACTOR], [7, 0, 7]], np.int32),
        num_entities=NUM_FILMS + 1,
        num_relations=1,
        item_entities_I=np.arange(NUM_FILMS, dtype=np.int32),
    )


def tiny_split() -> ScoredSplit:
    """Dialogue a names 1 and 2 in one turn, then 1 again; dialogue b names nothing."""
    return ScoredSplit(
        name="test",
        movie_ids=FILMS,
        films=frozenset(FILMS),
        dialogues=(
            StoredDialogue(
                "a",
                (
                    StoredMessage("0", "seeker", "hi", (), 0),
                    StoredMessage("1", "recommender", "see @1", ("1",), 1),
                    StoredMessage("2", "recommender", "or @2", ("2",), 1),
                    StoredMessage("3", "seeker", "no", (), 2),
                    StoredMessage("4", "recommender", "@1 again", ("1",), 3),
                ),
                (1, 3),
                Questionnaires(
                    seeker={
                        "2": FilmAnswers(suggested=1, seen=0, liked=1),
                        "1": FilmAnswers(suggested=1, seen=1, liked=0),
                    }
                ),
            ),
            StoredDialogue(
                "b",
                (
                    StoredMessage("0", "recommender", "hello", (), 0),
                    StoredMessage("1", "seeker", "hi", (), 1),
                    StoredMessage("2", "recommender", "bye", (), 2),
                ),
                (2,),
                Questionnaires(),
            ),
        ),
        turns=(
            Turn(key=("a", "1"), gold=("1", "2"), cut_gold=("1",), named=(), num_characters=6),
            Turn(key=("a", "4"), gold=("1",), cut_gold=("1",), named=("1", "2"), num_characters=4),
            Turn(key=("b", "2"), gold=(), cut_gold=(), named=(), num_characters=2),
        ),
        instances=(
            Instance(key=("a", "1"), gold=("1",), named=()),
            Instance(key=("a", "2"), gold=("2",), named=("1",)),
            Instance(key=("a", "4"), gold=("1",), named=("1", "2")),
        ),
        related=RelatedFilms(tiny_graph(), FILMS),
    )


def slot(*ranked: str) -> Slot:
    """A place that names the first of its films."""
    return Slot(item=ranked[0], ranked=ranked)


def tiny_records() -> list[Record]:
    """A system that names film 1 twice in the first turn, and 2, which was named, in the second."""
    return [
        Record(
            dialogue="a",
            message="1",
            text="see @1 or @1",
            slots=(slot("1", "5", "2"), slot("1", "5", "2")),
            ranking=("2", "1"),
            nll=2.0,
            gold_tokens=4,
        ),
        Record(dialogue="a", message="2", text="", ranking=("2",)),
        Record(
            dialogue="a",
            message="4",
            text="@2",
            slots=(slot("2", "1"),),
            ranking=("2", "1"),
            nll=1.0,
            gold_tokens=2,
        ),
        Record(dialogue="b", message="2", text="ok ok", nll=3.0, gold_tokens=2),
    ]


def random_answers(
    rng: np.random.Generator, split: ScoredSplit, films: Sequence[str], *, depth: int = 60
) -> list[Record]:
    """Up to three places a response, with random lists of some films."""
    records = []
    for key in sorted({it.key for it in (*split.turns, *split.instances)}):
        lists = [rng.permutation(films)[:depth].tolist() for _ in range(rng.integers(0, 4))]
        slots = tuple(slot(*ranked) for ranked in lists)
        records.append(
            Record(
                dialogue=key[0],
                message=key[1],
                text=" ".join(f"say @{it.item}" for it in slots),
                slots=slots,
                ranking=tuple(rng.permutation(films)[:depth].tolist()),
            )
        )
    return records


def random_split(rng: np.random.Generator, films: Sequence[str], num_turns: int) -> ScoredSplit:
    """Turns of one message each, with up to three gold films, some of them named before."""
    dialogues, turns, instances = [], [], []
    for number in range(num_turns):
        gold = tuple(rng.choice(films, rng.integers(0, 4)).tolist())
        named = tuple(rng.permutation(films)[: rng.integers(0, 3)].tolist())
        key = (f"d{number // 2}", str(2 * number + 1))
        messages = (
            StoredMessage(str(2 * number), "seeker", "", named, 2 * number),
            StoredMessage(key[1], "recommender", "", gold, 2 * number + 1),
        )
        dialogues.append((key[0], messages))
        turns.append(Turn(key=key, gold=gold, cut_gold=gold[:1], named=named, num_characters=1))
        if gold:
            instances.append(Instance(key=key, gold=gold, named=named))
    names = list(dict.fromkeys(name for name, _ in dialogues))
    stored = tuple(
        StoredDialogue(
            name,
            tuple(it for other, messages in dialogues if other == name for it in messages),
            (),
            Questionnaires(),
        )
        for name in names
    )
    return ScoredSplit(
        name="test",
        movie_ids=FILMS,
        films=frozenset(FILMS),
        dialogues=stored,
        turns=tuple(turns),
        instances=tuple(instances),
        related=RelatedFilms(tiny_graph(), FILMS),
    )
