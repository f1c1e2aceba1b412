"""Command lines: one parser for all commands, whose errors are one sentence of our form.

An entry point parses before it imports what is slow to import, so that `--help` and errors come at
once.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from trainer.common.errors import InputError

MAX_WHOLE = (1 << 63) - 1
MAX_RANKS = 1 << 16
WHOLE = re.compile(r"[+-]?[0-9]{1,30}", re.ASCII)
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
# What argparse says -> what we say; groups of the pattern are put in by number.
SENTENCES = (
    (
        r"the following arguments are required: (.+)",
        "{0} must be given, got nothing.",
    ),
    (
        r"argument (\S+): invalid choice: (.+) \(choose from (.+)\)",
        "{0} must be one of {2}, got {1}.",
    ),
    (
        r"argument (\S+): expected (.+)",
        "{0} must have {1}, got none.",
    ),
    (
        r"argument (\S+): not allowed with argument (\S+)",
        "{0} must be left out beside {1}, got both.",
    ),
    (r"argument (\S+): ignored explicit argument (.+)", "{0} must have no value, got {1}."),
    (r"argument (\S+): (must .+)", "{0} {1}."),
)


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Descriptions as they are written, and the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, "", []) or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """The parser of a command, or of one of its subcommands.

    Options cannot be shortened: a script that does so breaks when an option is added. Each command
    takes --debug, which `run_main` reads.
    """

    def __init__(
        self,
        *,
        prog: str | None = None,
        description: str | None = None,
        epilog: str | None = None,
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=_Help,
        )
        self.add_argument(
            "--debug", action="store_true", help="show where an error of yours was found, too"
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but that an option's value is never lost."""
        # Before Python 3.13 `--size=--` has an empty list as its value, whatever the type is.
        for argument in sys.argv[1:] if args is None else args:
            name, _, value = argument.partition("=")
            if name.startswith("--") and value == "--":
                self.error(f"argument {name}: must have a value, got {value}")
        return super().parse_known_args(args, namespace)

    def add_commands(self, metavar: str) -> Any:
        """Subcommands, of which one must be given: `command` in what is parsed."""
        return self.add_subparsers(
            required=True, dest="command", metavar=metavar, parser_class=_Subcommand
        )

    def error(self, message: str) -> NoReturn:
        """Raise InputError with what argparse found, as a sentence of ours."""
        remedy = f"See {self.prog} --help."
        unknown = re.fullmatch(r"unrecognized arguments: (.+)", message, re.DOTALL)
        if unknown:
            raise InputError(
                f"arguments must be those of --help, got {unknown[1]}. "
                f"{self._nearest(unknown[1].split()[0]) or remedy}"
            )
        for pattern, sentence in SENTENCES:
            found = re.fullmatch(pattern, message, re.DOTALL)
            if found:
                what, *rest = found.groups()
                # Of "-t/--text" the long name, and choices without Python's quotes.
                parts = (what.rpartition("/")[2], *(it.replace("'", "") for it in rest))
                raise InputError(f"{sentence.format(*parts)} {remedy}")
        raise InputError(f"arguments must be those of --help, got an error: {message}. {remedy}")

    def _nearest(self, argument: str) -> str:
        known = re.findall(r"--[a-z][a-z-]*", self.format_usage())
        near = difflib.get_close_matches(argument.partition("=")[0], known, n=1)
        return f"Did you mean {near[0]}?" if near else ""


class _Subcommand(CommandParser):
    """Refuses what it does not know itself: its parent's help and options would be no help."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return known, rest


def whole(lowest: int, highest: int = MAX_WHOLE) -> Callable[[str], int]:
    """The type of an option that takes a whole number of [lowest, highest]."""

    def read(text: str) -> int:
        if not WHOLE.fullmatch(text) or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(
                f"must be a whole number in [{lowest}, {highest}], got {text}"
            )
        return int(text)

    return read


def number(lowest: float, highest: float) -> Callable[[str], float]:
    """The type of an option that takes a number of [lowest, highest]."""

    def read(text: str) -> float:
        if not NUMBER.fullmatch(text) or not lowest <= float(text) <= highest:
            raise argparse.ArgumentTypeError(
                f"must be a number in [{lowest:g}, {highest:g}], got {text}"
            )
        return float(text)

    return read
