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
    "8": "Up (2009)",
    "9": "UP (2009)",
    "10": "The Matrix (1999)",
    "11": "Pride and Prejudice (2005)",
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
        ("amélie(2001)", ["6"]),
        ('"Titanic(1997)", and Titanic(1997).', ["1", "1"]),
        ('"UP (2009)" and UP (2009)', ["9", "9"]),
        ('"Up (2009)" and "up (2009)"', ["8", "8"]),
        ('"titanic  (1997) @2"', ["2"]),
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


def test_quoted_sentence_that_ends_in_an_id_keeps_its_words(finder: FilmFinder) -> None:
    heard = finder.hear('My sister told me "whatever you do, never watch @2" and I agree')
    before, after = 'My sister told me "whatever you do, never watch ', '" and I agree'
    assert heard.pieces == (before, Mention("2"), after)
    assert heard.hints == ()


def test_hint_after_a_film_begins_behind_it(finder: FilmFinder) -> None:
    (hint,) = finder.hear("I liked @3 then Titanik (1997)").hints
    assert hint.startswith("no film is called then Titanik (1997). ")


def test_names_that_and_joins_are_found_each(finder: FilmFinder) -> None:
    names = ["Titanic", "The Matrix", "Pride and Prejudice", "Up"]
    heard = finder.hear(" and ".join(names))
    assert [hint.split(" was taken")[0] for hint in heard.hints] == names


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
    "text",
    [
        "It was good.",
        "hello",
        "I live in New York",
        'I liked "Titanic (1997)"',
        "😀",
        "@x",
        'He said "hello" to me',
        '5" tall and 6" wide',
        "Titanic(1997)",
        '"so @1 is" and "so is @2"',
    ],
)
def test_plain_talk_gives_no_hint(finder: FilmFinder, text: str) -> None:
    assert finder.hear(text).hints == ()


def test_long_white_space_is_heard_at_all(finder: FilmFinder) -> None:
    """Of a million spaces the square would take hours."""
    text = f"a{' ' * 1_000_000}b"
    assert finder.hear(text).pieces == (text,)
