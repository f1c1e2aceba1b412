"""How varied what a system says is: repeats within a response, responses said often, words.

T responses.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from trainer.scoring.metrics import DISTINCT_N

NUM_FREQUENT = 10
"""The most frequent responses of a system, whose share is a metric."""
FILM = "@"
"""What stands for any film where responses are compared, and how the word of a film begins."""


def variety_counts(words_T: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """The counts of every response, float64 [T] each; a film is one word, "@<id>".

    within_distinct_n: n-grams that are distinct within the response, whatever others say.
    repeated: 1 if another response is the same, films taken for one word.
    frequent: 1 if it is one of the NUM_FREQUENT responses that are said most often, likewise.
    word_surprisal: bits of its words by their shares among all words of all responses; over the
        number of words this is the entropy of these shares.
    """
    said_T = [tuple(FILM if it.startswith(FILM) else it for it in words) for words in words_T]
    times = Counter(said_T)
    frequent = {said for said, _ in times.most_common(NUM_FREQUENT)}
    bits = _bits_of_words(words_T)
    counts = {
        f"within_distinct_{n}": [_num_distinct(words, n) for words in words_T] for n in DISTINCT_N
    }
    counts["repeated"] = [times[said] > 1 for said in said_T]
    counts["frequent"] = [said in frequent for said in said_T]
    counts["word_surprisal"] = [sum(map(bits.__getitem__, words)) for words in words_T]
    return {name: np.array(values, np.float64) for name, values in counts.items()}


def _num_distinct(words: Sequence[str], n: int) -> int:
    return len({tuple(words[start : start + n]) for start in range(len(words) - n + 1)})


def _bits_of_words(words_T: Sequence[Sequence[str]]) -> dict[str, float]:
    times = Counter(word for words in words_T for word in words)
    total = times.total()
    return {word: -math.log2(count / total) for word, count in times.items()}
