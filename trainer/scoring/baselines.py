"""Systems that need no model: they repeat the context, or name what is popular, or anything.

They know when the gold response recommends, and how many films it names: bars for ranking alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trainer.common.errors import InputError
from trainer.data.stored_dialogues import StoredDialogue
from trainer.scoring.metrics import list_depth
from trainer.scoring.names import BASELINES
from trainer.scoring.records import Record, Slot
from trainer.scoring.scored_split import Key, ScoredSplit

SEED = 0
Rank = Callable[[Sequence[str]], Sequence[str]]
"""Films named before, the last one last -> films, best first."""


def baseline_records(
    name: str, split: ScoredSplit, train: Sequence[StoredDialogue]
) -> list[Record]:
    """What a baseline says in place of every message that a view reads.

    Raises:
        InputError: if there is no such baseline.
    """
    rank = _ranker(name, split, train)
    num_gold = {turn.key: len(turn.gold) for turn in split.turns}
    return [_record(key, rank(named), num_gold.get(key, 0)) for key, named in _named_before(split)]


def popular_films(movie_ids: Sequence[str], train: Sequence[StoredDialogue]) -> list[str]:
    """The catalogue by mentions in train's responses, most first, ties in its own order."""
    counts = Counter(
        film
        for dialogue in train
        for turn in dialogue.responses
        for message in dialogue.messages_of(turn)
        for film in message.mentions
    )
    return sorted(movie_ids, key=lambda film: -counts[film])


def _named_before(split: ScoredSplit) -> Iterator[tuple[Key, tuple[str, ...]]]:
    """Every message that is asked for, once, and the films named before it."""
    named = {it.key: it.named for it in (*split.turns, *split.instances)}
    yield from named.items()


def _ranker(name: str, split: ScoredSplit, train: Sequence[StoredDialogue]) -> Rank:
    if name == "copy":
        return lambda named: named[::-1]
    num_films = len(split.movie_ids)
    if name == "popularity":
        popular = popular_films(split.movie_ids, train)
        return lambda named: popular[: list_depth(num_films, len(named))]
    if name == "random":
        rng = np.random.default_rng(SEED)
        films = np.array(split.movie_ids)
        return lambda named: films[
            rng.permutation(num_films)[: list_depth(num_films, len(named))]
        ].tolist()
    raise InputError(f"a baseline must be one of {', '.join(BASELINES)}, got {name}.")


def _record(key: Key, ranked: Sequence[str], num_films: int) -> Record:
    slot = [Slot(item=ranked[0], ranked=tuple(ranked))] if ranked else []
    return Record(
        dialogue=key[0],
        message=key[1],
        text=" ".join(f"@{ranked[0]}" for _ in range(num_films)) if ranked else "",
        slots=tuple(slot * num_films),
        ranking=tuple(ranked),
    )
