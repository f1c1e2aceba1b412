"""A conversation between a seeker and a recommender, as every corpus gives it."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

MENTION_PATTERN = re.compile(r"@([0-9]+)")

Sender = Literal["seeker", "recommender"]
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class Mention:
    """A movie named inside a message, written @<movie id> there."""

    movie_id: str


Piece = str | Mention
"""A stretch of text, or a movie named in it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message; its mentions are written "@123"."""

    sender: Sender
    text: str
    message_id: str = ""
    """As the corpus names it; "": its number in the dialogue is its name."""


@dataclass(frozen=True, slots=True)
class FilmAnswers:
    """What one side answered about one film after the dialogue, in ReDial's codes."""

    suggested: int
    """0: the seeker named it first, 1: the recommender suggested it, 2: did not say."""
    seen: int
    """0: the seeker has not seen it, 1: has, 2: did not say."""
    liked: int
    """0: the seeker did not like it, 1: did, 2: did not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Questionnaires:
    """Movie id -> answers of each side; empty where a side did not answer, or was not asked."""

    seeker: Mapping[str, FilmAnswers] = field(default_factory=dict)
    recommender: Mapping[str, FilmAnswers] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a dialogue was read, and what its reader passed over."""

    place: str = ""
    """"FILE:LINE"; "": the corpus does not say."""
    repeated_keys: int = 0
    """Keys that its record gives twice, such as a movie's title: the last one counts."""


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is no dialogue: a reader yields it in place of one."""

    place: str
    problem: str
    """`<what> must be <rule>, got <value>. <what to do>`."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation."""

    dialogue_id: str
    messages: tuple[Message, ...]
    titles: dict[str, str]
    """Movie id -> "Title (Year)", "" if not known. No other @number in the texts is a movie."""
    questionnaires: Questionnaires = field(default_factory=Questionnaires)
    origin: Origin = field(default_factory=Origin, compare=False)

    def pieces(self) -> Iterator[Piece]:
        """Texts and mentions of all messages, in order."""
        for message in self.messages:
            yield from split_mentions(message.text, self.titles)


def split_mentions(text: str, movie_ids: Container[str]) -> list[Piece]:
    """Text pieces and mentions in order; joined again they give the text back.

    An @number that is not in movie_ids is plain text. Mentions may be glued to text ("@187028.I").
    """
    pieces: list[Piece] = []
    start = 0
    for match in MENTION_PATTERN.finditer(text):
        if match.group(1) not in movie_ids:
            continue
        if match.start() > start:
            pieces.append(text[start : match.start()])
        pieces.append(Mention(match.group(1)))
        start = match.end()
    if start < len(text):
        pieces.append(text[start:])
    return pieces
