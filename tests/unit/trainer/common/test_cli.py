"""How a command and a rank end: their status, and one line for an error of the user's."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from trainer.common.cli import run_main, run_rank
from trainer.common.errors import first_line


class LeftAtOnce(BaseException):
    """In the place of os._exit."""


def leave(code: int) -> None:
    raise LeftAtOnce(code)


@pytest.mark.parametrize(
    ("ending", "code", "printed"),
    [
        (None, 0, ""),
        (ValueError("x must be 1, got 2."), 2, "error: x must be 1, got 2.\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(2), 2, ""),
        (SystemExit(), 0, ""),
        (SystemExit("no such thing"), 1, "no such thing\n"),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("run", "end"), [(run_main, SystemExit), (run_rank, LeftAtOnce)])
def test_commands_and_ranks_end_alike_but_ranks_leave_python_as_it_is(
    run: Callable[[Callable[[list[str]], None]], None],
    end: type[BaseException],
    ending: BaseException | None,
    code: int,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(sys, "argv", ["command", "a=1"])

    def main(argv: list[str]) -> None:
        assert argv == ["a=1"]
        if ending is not None:
            raise ending

    with pytest.raises(end) as ended:
        run(main)
    got = ended.value.args[0] if ended.value.args else 0
    # Python itself prints a text that is no number, and ends with 1.
    assert got == (printed.strip() if isinstance(got, str) else code)
    assert capsys.readouterr().err == ("" if isinstance(got, str) else printed)


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("\nno room\nat /x"), "no room"), (ValueError(" "), "ValueError")],
)
def test_first_line_of_an_error_is_what_it_says_or_its_name(error: Exception, line: str) -> None:
    assert first_line(error) == line
