"""Text as a web page kept it."""

from __future__ import annotations

import random
import re

import pytest

from trainer.data.raw_text import clean_text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("&#39;&#x27;&eacute;&lt;", "''é<"),
        ("AT&T and R&B; x", "AT&T and R&B; x"),
        # `html.unescape` takes "&not" and "&para" for entities.
        ("&notit; &parameter; &no;", "&notit; &parameter; &no;"),
        ("a  b \n\r\n c", "a  b c"),
        ("\na&#10;b", " a b"),
    ],
)
def test_entities_are_letters_and_the_text_is_one_line(text: str, clean: str) -> None:
    assert clean_text(text) == clean


def test_breaks_are_those_of_the_plain_pattern() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices("ab \t\r\n", k=draw.randrange(12)))
        assert clean_text(text) == re.sub(r"\s*[\r\n]\s*", " ", text), repr(text)


def test_long_white_space_is_cleaned_at_all() -> None:
    """Of a million spaces the square would take hours."""
    text = f"a{' ' * 1_000_000}b"
    assert clean_text(text) == text
