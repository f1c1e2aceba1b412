from __future__ import annotations

import io
from enum import Enum

import pytest

from trainer.common.tables import fitted, terminal_width

COLUMNS = ("kind", "state", "endpoint", "requests/s")
ROWS = [
    ("dialogue", "RUNNING", "127.0.0.1:50051", "12.5"),
    ("recommendation", "", "[2001:db8::1]:50052", "3.0"),
]


def test_table_that_fits_has_its_columns_below_each_other() -> None:
    expected = """fleet
kind            state    endpoint             requests/s
--------------  -------  -------------------  ----------
dialogue        RUNNING  127.0.0.1:50051            12.5
recommendation           [2001:db8::1]:50052         3.0"""
    for width in (None, 56, 200):
        text = fitted(ROWS, COLUMNS, right={"requests/s"}, title="fleet", width=width)
        assert text == expected


@pytest.mark.parametrize("width", [10, 20, 40, 55])
def test_narrow_terminal_shows_every_value_whole(width: int) -> None:
    text = fitted(ROWS, COLUMNS, width=width)
    for row in ROWS:
        assert all(cell in text for cell in row)
    pairs = [pair for row in ROWS for pair in zip(COLUMNS, row, strict=True)]
    longest = max(len(f"  {name} {cell}") for name, cell in pairs)
    assert max(map(len, text.splitlines())) <= max(width, longest)


def test_wide_characters_count_for_two_columns() -> None:
    lines = fitted([("七人の侍", "x"), ("it", "y")], ("film", "b")).splitlines()
    assert lines[2:] == ["七人の侍  x", "it        y"]


def test_table_without_rows_is_its_header() -> None:
    assert fitted([], ("a", "b")) == "a  b\n-  -"


def test_pipe_has_the_width_of_a_terminal_at_its_other_end_if_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_width(io.StringIO()) is None
    monkeypatch.setenv("COLUMNS", "80")
    assert terminal_width(io.StringIO()) == 80


def test_states_of_an_enumeration_are_shown_by_their_value() -> None:
    class State(str, Enum):
        UP = "RUNNING"

    text = fitted([["dialogue", State.UP, "x" * 30]], ["kind", "state", "endpoint"], width=20)
    assert text.splitlines()[1].split() == ["state", "RUNNING"]
