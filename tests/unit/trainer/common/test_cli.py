"""How a command and a rank end: their status, and one line for an error of the user's."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

import pytest

from trainer.common.cli import run_main, run_rank
from trainer.common.errors import InputError, MachineError, first_line


class LeftAtOnce(BaseException):
    """In the place of os._exit."""


def leave(code: int) -> None:
    raise LeftAtOnce(code)


@pytest.mark.parametrize(
    ("ending", "code", "printed"),
    [
        (None, 0, ""),
        (InputError("x must be 1, got 2."), 2, "error: x must be 1, got 2.\n"),
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


def end_of(error: BaseException, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["command", *argv])

    def main(argv: list[str]) -> None:
        assert "--debug" not in argv
        raise error

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MachineError("a must\n be b"), "error: a must be b\n"),
        (
            InputError("a must be b:", details=["x:1: c\n must", "and 2 more"]),
            "error: a must be b:\n  x:1: c must\n  and 2 more\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            "error: /x must be usable, got: Permission denied. "
            "Check its owner and mode, or name another path.\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "error: what is written must be usable, got: No space left on device. "
            "Free some space there.\n",
        ),
    ],
)
def test_what_a_user_can_put_right_is_one_line_and_with_debug_the_traceback_before_it(
    error: Exception,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert end_of(error, [], monkeypatch) == 2
    assert capsys.readouterr().err == line
    assert end_of(error, ["a=1", "--debug"], monkeypatch) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith(line)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("torch.cat(): expected a non-empty list of Tensors"),
        KeyError("x"),
        OSError("nobody knows what"),
        RuntimeError("shape"),
    ],
    ids=repr,
)
def test_a_mistake_of_ours_is_shown_whole_with_the_request_to_report_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(error, [], monkeypatch) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("This is a mistake of ours, not yours. Please report the lines above.\n")
