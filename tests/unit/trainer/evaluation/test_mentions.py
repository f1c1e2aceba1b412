"""Films in what people type."""

from __future__ import annotations

import pytest

from tests.support.evaluation_fakes import tiny_vocabulary
from trainer.data.dialogue import Mention
from trainer.data.vocabulary import build_vocabulary
from trainer.evaluation.mentions import FilmFinder

TITLES = {
    "1": "Titanic (1997)",
    "2": "Titanic (1997)",
    "3": "It (2017)",
    "4": "The Lord of the Rings (2001)",
    "5": "Rings (2001)",
    "6": "Amélie (2001)",
    "7": "Her",
}


@pytest.fixture(scope="module")
def finder() -> FilmFinder:
    return FilmFinder(build_vocabulary(tiny_vocabulary(1).tokenizer, TITLES))


def films(finder: FilmFinder, text: str) -> list[str]:
    return [it.movie_id for it in finder.hear(text).pieces if isinstance(it, Mention)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('I liked "Titanic (1997)"', ["1"]),
        ('I liked "titanic  (1997)".', ["1"]),
        ("I liked TITANIC (1997), and it (2017)!", ["1", "3"]),
        ("“Amélie (2001)” was nice", ["6"]),
        ("amélie(2001)", []),
        ("the lord of the rings (2001)", ["4"]),
        ("all rings (2001)", ["5"]),
        ("(titanic (1997))", ["1"]),
        ("@3 or @4, not @99", ["3", "4"]),
        ('"Her" and "Titanic (1997) @2"', ["7", "2"]),
        ("I like her and titanic", []),
        ("", []),
    ],
)
def test_film_is_found_by_id_or_title_with_its_year(
    finder: FilmFinder, text: str, expected: list[str]
) -> None:
    assert films(finder, text) == expected


def test_text_around_a_film_stays_as_it_is(finder: FilmFinder) -> None:
    pieces = finder.hear("I saw titanic (1997), then slept").pieces
    assert pieces == ("I saw ", Mention("1"), ", then slept")
    assert finder.hear('see "Titanic (1997)"').pieces == ("see ", Mention("1"))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("I liked Titanic", 'Titanic was taken for text. Do you mean "Titanic (1997)"'),
        ('I liked "Titanic"', 'no film is called Titanic. Do you mean "Titanic (1997)"'),
        ('"Titanik (1997)"', 'no film is called Titanik (1997). Do you mean "Titanic (1997)"'),
        ("Titanic (1998)", 'no film is called Titanic (1998). Do you mean "Titanic (1997)"'),
        ("The Lord of the Rings", 'Do you mean "The Lord of the Rings (2001)"?'),
        ('"Zebra crossing"', 'Name a film as its title and year, "Titanic (1997)", or as @1.'),
        ("@99", "no film has the id @99."),
    ],
)
def test_what_looks_like_a_film_and_is_none_gives_a_hint(
    finder: FilmFinder, text: str, hint: str
) -> None:
    heard = finder.hear(text)
    assert not any(isinstance(piece, Mention) for piece in heard.pieces)
    assert any(hint in each for each in heard.hints), heard.hints


@pytest.mark.parametrize(
    "text", ["It was good.", "hello", "I live in New York", 'I liked "Titanic (1997)"', "😀", "@x"]
)
def test_plain_talk_gives_no_hint(finder: FilmFinder, text: str) -> None:
    assert finder.hear(text).hints == ()
