"""The parser of all commands: errors in our form, defaults in the help, no shortened options."""

from __future__ import annotations

import pytest

from trainer.common.command import CommandParser, number, whole
from trainer.common.errors import InputError


def parser() -> CommandParser:
    made = CommandParser(prog="python -m it", description="What it does.")
    made.add_argument("what", choices=("this", "that"))
    made.add_argument("--size", type=whole(1, 8), default=3, help="of a thing")
    made.add_argument("--seconds", type=number(0.5, 60), help="to wait")
    made.add_argument("--output", required=True, help="folder to write")
    one_of = made.add_mutually_exclusive_group()
    one_of.add_argument("--json", action="store_true", help="one object")
    one_of.add_argument("--watch", action="store_true", help="again and again")
    return made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("this", "--output must be given, got nothing. See python -m it --help."),
        ("--output o", "what must be given, got nothing. See python -m it --help."),
        ("other --output o", "what must be one of this, that, got other. See python -m it --help."),
        ("this --output", "--output must have one argument, got none. See python -m it --help."),
        (
            "this --output o --json --watch",
            "--watch must be left out beside --json, got both. See python -m it --help.",
        ),
        (
            "this --output o --json=x",
            "--json must have no value, got x. See python -m it --help.",
        ),
        (
            "this --output o --sice 3",
            "arguments must be those of --help, got --sice 3. Did you mean --size?",
        ),
        (
            "this --output o --out p",
            "arguments must be those of --help, got --out p. Did you mean --output?",
        ),
        (
            "this --output o more",
            "arguments must be those of --help, got more. See python -m it --help.",
        ),
    ],
)
def test_a_wrong_command_line_is_one_sentence(arguments: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        parser().parse_args(arguments.split())
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "text", ["0", "9", "-1", "2.5", "", "1e0", "\u00b2", "\u0663", "9" * 40, "x"]
)
def test_whole_number_out_of_its_range_or_of_other_digits_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^--size must be a whole number in \[1, 8\], got "):
        parser().parse_args(["this", "--output", "o", f"--size={text}"])


@pytest.mark.parametrize(
    "text", ["0.4", "61", "nan", "inf", "-1", "1e999", "", "\u0661", "1_0", "x"]
)
def test_number_out_of_its_range_or_not_finite_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^--seconds must be a number in \[0\.5, 60\], got "):
        parser().parse_args(["this", "--output", "o", f"--seconds={text}"])


@pytest.mark.parametrize(("text", "value"), [("8", 8), ("+1", 1), ("007", 7)])
def test_whole_number_in_its_range_is_taken(text: str, value: int) -> None:
    assert parser().parse_args(["this", "--output", "o", f"--size={text}"]).size == value


@pytest.mark.parametrize(("text", "value"), [(".5", 0.5), ("6e1", 60.0), ("2.", 2.0)])
def test_number_in_its_range_is_taken(text: str, value: float) -> None:
    assert parser().parse_args(["this", "--output", "o", f"--seconds={text}"]).seconds == value


def test_help_has_the_defaults_of_options_that_have_one() -> None:
    # The formatter of argparse that adds them has no public interface to choose which.
    text = " ".join(parser().format_help().split())
    assert "of a thing (default: 3)" in text
    assert "one object --watch again and again" in text
    assert "folder to write --seconds" in text or "to wait --output OUTPUT folder to write" in text


def test_subcommands_refuse_in_the_same_form() -> None:
    outer = CommandParser(prog="python -m it")
    commands = outer.add_commands("make|show")
    commands.add_parser("make", help="make it").add_argument("--size", type=whole(1, 8))
    for arguments, message in (
        ([], "make|show must be given, got nothing. See python -m it --help."),
        (["made"], "make|show must be one of make, got made. See python -m it --help."),
        (
            ["make", "--size", "0"],
            "--size must be a whole number in [1, 8], got 0. See python -m it make --help.",
        ),
        (
            ["make", "--siz", "1"],
            "arguments must be those of --help, got --siz 1. Did you mean --size?",
        ),
        (
            ["make", "more"],
            "arguments must be those of --help, got more. See python -m it make --help.",
        ),
    ):
        with pytest.raises(InputError) as refused:
            outer.parse_args(arguments)
        assert str(refused.value).startswith(message)
