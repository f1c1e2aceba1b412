"""Films in what a person types, and hints where something looks like a film and is none.

A film is named as @id, as its title in quotes, or as its title with the year, in any case:
`"Titanic (1997)"`, `titanic(1997)`. A name without the year is no film: too many are words.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from trainer.data.dialogue import MENTION_PATTERN, Mention, Piece, split_mentions
from trainer.data.vocabulary import Vocabulary

QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”')
YEAR = re.compile(r"(?<!\s)\s*\([0-9]{4}\)")
# "It @4711": how the tokenizer of an exported student spells a film that needs its id.
WITH_ID = re.compile(r" @([0-9]+)\Z")
WORD = r"[A-Z0-9][\w'\u2019&:-]*"
CAPITALISED = re.compile(rf"(?=[A-Z]){WORD}(?: (?:{WORD}|of|the|and|in|a|to))*")
MAX_WORDS = 15
"""Of a title that is looked for before a year."""
MENTIONED = " \ufffc "
"""Stands for a film where hints are looked for: Unicode's sign for an object in the text."""
HOW = 'Name a film as its title and year, "{title}", or as @{id}.'


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a person said, as the model takes it."""

    pieces: tuple[Piece, ...]
    hints: tuple[str, ...]
    """One line for each thing that looks like a film and was taken for text."""


class FilmFinder:
    """Finds the films of one catalogue."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        pairs = list(zip(vocabulary.movie_ids, vocabulary.titles, strict=True))
        self._titles = dict(pairs)
        # Of films that share a title the first in the catalogue is meant; of titles that differ in
        # case alone, the one that is typed exactly.
        self._exact = {title: movie_id for movie_id, title in reversed(pairs)}
        self._by_title = {_key(title): movie_id for movie_id, title in reversed(pairs)}
        self._by_name: dict[str, list[str]] = {}
        for _, title in pairs:
            titles = self._by_name.setdefault(_key(YEAR.sub("", title)), [])
            titles += [title] if title not in titles else []
        self._exact.pop("", None)
        self._by_title.pop("", None)
        self._by_name.pop("", None)

    def hear(self, text: str) -> Heard:
        """The films in a text, the text between them, and hints."""
        spans = sorted([*self._quoted(text), *self._with_year(text)])
        pieces: list[Piece] = []
        start = 0
        for first, end, movie_id in spans:
            # A quoted title has its year inside: it was found twice.
            if first >= start:
                pieces += [*self._text(text[start:first]), Mention(movie_id)]
                start = end
        pieces += self._text(text[start:])
        rest = "".join(it if isinstance(it, str) else MENTIONED for it in pieces)
        return Heard(pieces=tuple(pieces), hints=tuple(dict.fromkeys(self._hints(rest))))

    def _text(self, text: str) -> list[Piece]:
        return split_mentions(text, self._vocabulary.movie_ids)

    def _quoted(self, text: str) -> Iterator[tuple[int, int, str]]:
        for match in QUOTED.finditer(text):
            movie_id = self._film(match.group(1) or match.group(2))
            if movie_id is not None:
                yield match.start(), match.end(), movie_id

    def _film(self, quoted: str) -> str | None:
        with_id = WITH_ID.search(quoted)
        if with_id:
            title = self._titles.get(with_id.group(1))
            # A sentence in quotes may end in an id, too.
            if title is not None and _key(quoted[: with_id.start()]) == _key(title):
                return with_id.group(1)
        return self._film_titled(quoted)

    def _film_titled(self, text: str) -> str | None:
        return self._exact.get(text) or self._by_title.get(_key(text))

    def _with_year(self, text: str) -> Iterator[tuple[int, int, str]]:
        for year in YEAR.finditer(text):
            starts = [it.start() for it in re.finditer(r"(?<!\S)\S", text[: year.start()])]
            # The longest title that ends here; a quote or bracket may be glued to it.
            for start in starts[-MAX_WORDS:]:
                first = start + len(text[start:]) - len(text[start:].lstrip("\"“'([*"))
                movie_id = self._film_titled(text[first : year.end()])
                if movie_id is not None:
                    yield first, year.end(), movie_id
                    break

    def _hints(self, text: str) -> Iterator[str]:
        quoted = [match.group(1) or match.group(2) for match in QUOTED.finditer(text)]
        yield from (self._hint(name) for name in quoted if self._may_be_film(name))
        left = QUOTED.sub(" . ", text).replace(MENTIONED, " . ")
        for year in YEAR.finditer(left):
            name = left[: year.start()].rsplit(".", 1)[-1].split()[-4:]
            yield self._hint(" ".join([*name, year.group().strip()]))
        for match in MENTION_PATTERN.finditer(left):
            yield f"no film has the id {match.group()}. {self._how([])}"
        for match in CAPITALISED.finditer(YEAR.sub(" . ", left)):
            for place, name in self._named(match.group()):
                # "It" and "Up" begin sentences more often than they name films.
                if len(name) > 4 or match.start() + place > 0:
                    yield f"{name} was taken for text. {self._how(self._by_name[_key(name)])}"

    def _may_be_film(self, quoted: str) -> bool:
        """Whether a quote is more likely a title than what somebody said, or inches."""
        if MENTIONED in quoted:
            return False
        starts_as_title = quoted.strip()[:1].isupper()
        return bool(starts_as_title or YEAR.search(quoted) or self._near(quoted))

    def _named(self, run: str) -> Iterator[tuple[int, str]]:
        """Films named by capitalised words: all of them, or what "and" joins; with their places."""
        parts = run.split(" and ")
        first = 0
        while first < len(parts):
            end = first + 1
            for last in range(len(parts), first, -1):
                name = " and ".join(parts[first:last])
                if _key(name) in self._by_name:
                    yield len(" and ".join([*parts[:first], ""])), name
                    end = last
                    break
            first = end

    def _hint(self, name: str) -> str:
        return f"no film is called {name}. {self._how(self._near(name))}"

    def _near(self, name: str) -> list[str]:
        """Titles like this one, the best first."""
        key = _key(YEAR.sub("", name))
        if key in self._by_name:
            return self._by_name[key][:3]
        close = difflib.get_close_matches(key, self._by_name, n=3, cutoff=0.75)
        return [title for each in close for title in self._by_name[each]][:3]

    def _how(self, titles: list[str]) -> str:
        if titles:
            quoted = [f'"{title}"' for title in titles]
            return f"Do you mean {' or '.join(quoted)}?"
        example = self._vocabulary
        return HOW.format(title=example.titles[0], id=example.movie_ids[0])


def _key(title: str) -> str:
    """What titles are compared by: letters of any case, white space of any sort.

    The year may be glued to the name.
    """
    spaced = YEAR.sub(lambda year: f" {year.group().strip()}", title.casefold())
    return " ".join(spaced.split())
