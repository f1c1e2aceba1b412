"""Words of responses, and how many n-grams of them are distinct."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence

from trainer.data.dialogue import Mention, split_mentions
from trainer.scoring.metrics import DISTINCT_N

WORD_PATTERN = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
Ngram = tuple[str, ...]


def to_words(text: str) -> list[str]:
    """The words that DIST-n counts: runs of letters and digits, with inner apostrophes, and single
    punctuation marks; case is kept. ("don't!" is two words.)
    """
    return WORD_PATTERN.findall(text)


def response_words(text: str, films: Container[str]) -> list[str]:
    """Words of a response, where a film is ONE word, as in the systems that are compared."""
    return [
        word
        for piece in split_mentions(text, films)
        for word in ([f"@{piece.movie_id}"] if isinstance(piece, Mention) else to_words(piece))
    ]


def ngrams(words: Sequence[str], n: int) -> list[Ngram]:
    """All n-grams of one response, in order."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def wording_counts(
    responses: Iterable[tuple[str, Sequence[str]]],
) -> Mapping[str, Mapping[str, float]]:
    """Dialogue -> `ngrams_<n>` and `distinct_<n>`, from (dialogue, words of a response).

    Over all dialogues `distinct_<n>` is the number of distinct n-grams: a dialogue has an equal
    share of each n-gram that it and others have (its Shapley value), so that shares can be summed.
    """
    totals: dict[str, dict[str, float]] = {}
    owners: dict[Ngram, set[str]] = {}
    for dialogue, words in responses:
        counts = totals.setdefault(dialogue, _no_counts())
        for n in DISTINCT_N:
            found = ngrams(words, n)
            counts[f"ngrams_{n}"] += len(found)
            for ngram in found:
                owners.setdefault(ngram, set()).add(dialogue)
    for ngram, dialogues in owners.items():
        for dialogue in dialogues:
            totals[dialogue][f"distinct_{len(ngram)}"] += 1.0 / len(dialogues)
    return totals


def _no_counts() -> dict[str, float]:
    return {f"{name}_{n}": 0.0 for n in DISTINCT_N for name in ("ngrams", "distinct")}
