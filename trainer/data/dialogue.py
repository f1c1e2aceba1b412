"""A conversation between a seeker and a recommender, as every corpus gives it."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation."""

    dialogue_id: str
    messages: tuple[Message, ...]
    titles: dict[str, str]
    """Movie id -> "Title (Year)", "" if not known. No other @number in the texts is a movie."""

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
