"""What KGSF's own chain counts in a split, to compare a corpus with the literature.

KGSF tokenises with NLTK and takes a token as a movie if what follows its @ is one. So it does not
see a movie whose id is glued to letters, or to a full stop that ends no sentence ("I loved @123. i
read the book"); and it drops movies without a DBpedia page. Our examples keep both.

Source of the chain: KGSF (Zhou et al., KDD 2020) and its public code.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass

from punkt import sent_tokenize

from trainer.data.dialogue import MENTION_PATTERN, Dialogue

# What NLTK's word tokenizer does not split from the digits before it.
GLUE_PATTERN = re.compile(r"[\w*+/=\\^|~`-]")


@dataclass(frozen=True, kw_only=True)
class KgsfCounts:
    """One split as KGSF counts it."""

    responses_with_item: int
    """Recommender turns with a movie that its tokeniser sees."""
    responses_with_linked_item: int
    """Those with one that has a DBpedia page."""
    recommendation_samples: int
    """Such movies, with repeats."""
    cases: int
    """Samples, and one for each response without any."""


def count_as_kgsf(dialogues: Iterable[Dialogue], linked: Container[str]) -> KgsfCounts:
    """Count merged recommender turns that have an earlier turn; `linked` are movies with a page."""
    with_item = with_linked = samples = cases = 0
    for dialogue in dialogues:
        for movies in _responses(dialogue):
            num_linked = sum(movie in linked for movie in movies)
            with_item += bool(movies)
            with_linked += bool(num_linked)
            samples += num_linked
            cases += max(1, num_linked)
    return KgsfCounts(
        responses_with_item=with_item,
        responses_with_linked_item=with_linked,
        recommendation_samples=samples,
        cases=cases,
    )


def seen_movies(text: str, movie_ids: Container[str]) -> list[str]:
    """Movies of a message that KGSF's tokeniser sees, in order."""
    return [
        match.group(1)
        for match in MENTION_PATTERN.finditer(text)
        if match.group(1) in movie_ids and _stands_alone(text, match.end())
    ]


def _responses(dialogue: Dialogue) -> list[list[str]]:
    """The movies of every recommender turn but an opening one."""
    turns: list[tuple[str, list[str]]] = []
    for message in dialogue.messages:
        if not turns or turns[-1][0] != message.sender:
            turns.append((message.sender, []))
        turns[-1][1].extend(seen_movies(message.text, dialogue.titles))
    return [movies for sender, movies in turns[1:] if sender == "recommender"]


def _stands_alone(text: str, end: int) -> bool:
    after = text[end : end + 1]
    if after != "." or text[end : end + 2] == "..":
        return not GLUE_PATTERN.match(after)
    return end + 1 in _sentence_ends(text)


def _sentence_ends(text: str) -> set[int]:
    ends, start = set(), 0
    for sentence in sent_tokenize(text):
        start = text.index(sentence, start) + len(sentence)
        ends.add(start)
    return ends
