"""How varied what a system says is: repeats within a response, responses said often, words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from trainer.scoring.metrics import DISTINCT_N
from trainer.scoring.wording import ngrams

NUM_FREQUENT = 10
"""The most frequent responses of a system, whose share is a metric."""
FILM = "@"
"""What stands for any film where responses are compared, and how the word of a film begins."""


def variety_counts(
    responses: Sequence[tuple[str, Sequence[str]]],
) -> Iterator[tuple[str, dict[str, float]]]:
    """(dialogue, counts) of each response, from (dialogue, words), a film as one word "@<id>".

    within_distinct_<n>: n-grams that are distinct within the response, whatever others say.
    repeated: 1 if another response is the same, films taken for one word.
    frequent: 1 if it is one of the NUM_FREQUENT responses that are said most often, likewise.
    word_surprisal: bits of its words by their shares among all words of all responses; over the
        number of words this is the entropy of these shares.
    """
    said = [_without_titles(words) for _, words in responses]
    times = Counter(said)
    frequent = {it for it, _ in times.most_common(NUM_FREQUENT)}
    bits = _bits_of_words(words for _, words in responses)
    for (dialogue, words), it in zip(responses, said, strict=True):
        yield (
            dialogue,
            {
                **{f"within_distinct_{n}": float(len({*ngrams(words, n)})) for n in DISTINCT_N},
                "repeated": float(times[it] > 1),
                "frequent": float(it in frequent),
                "word_surprisal": sum(map(bits.__getitem__, words), 0.0),
            },
        )


def _without_titles(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(FILM if it.startswith(FILM) else it for it in words)


def _bits_of_words(responses: Iterable[Sequence[str]]) -> Mapping[str, float]:
    times = Counter(word for words in responses for word in words)
    total = times.total()
    return {word: -math.log2(count / total) for word, count in times.items()}
