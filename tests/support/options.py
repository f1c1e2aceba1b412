"""All options of the repository, a line each: dotted settings, and what the commands take.

python -m tests.support.options > tests/unit/options.txt
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from trainer.config.pretrain import ClassifierConfig, RecommendationConfig
from trainer.config.run import RunConfig
from trainer.config.yaml_file import setting_names

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = (RunConfig, ClassifierConfig, RecommendationConfig)
PACKAGES = ("protos", "trainer", "teacher_server")
OTHER_COMMANDS = (
    *("cluster.__main__", "cluster.students.__main__", "cluster.capacity.__main__"),
    *("cluster.bench.__main__", "cluster.demo", "cluster.proof.__main__"),
)


class _ParserFound(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def all_options() -> list[str]:
    """The lines of tests/unit/options.txt, in its order."""
    settings = [f"{cls.__name__} {name}" for cls in CONFIGS for name in setting_names(cls)]
    found = {option for module in _commands() for option in _options(module)}
    return sorted(settings) + sorted(found)


def _commands() -> Iterator[str]:
    """Modules that are run by users."""
    for path in (path for name in PACKAGES for path in (ROOT / name).rglob("*.py")):
        if '__name__ == "__main__"' in path.read_text():
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts)
    yield from OTHER_COMMANDS


def _options(module: str) -> Iterator[str]:
    command = f"python -m {module.removesuffix('.__main__')}"
    return _options_of(_parser_of(importlib.import_module(module).main), command)


def _parser_of(main: Any) -> argparse.ArgumentParser:
    """The parser that `main` builds, caught when it is about to parse."""

    def stop(self: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise _ParserFound(self)

    methods = ("parse_args", "parse_known_args", "parse_intermixed_args")
    try:
        with mock.patch.multiple(argparse.ArgumentParser, **dict.fromkeys(methods, stop)):
            main([])
    except _ParserFound as found:
        return found.parser
    raise AssertionError(f"{main.__module__} must parse its command line first")


def _options_of(parser: argparse.ArgumentParser, command: str) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from _options_of(inner, f"{command} {name}")
        elif not isinstance(action, argparse._HelpAction):
            yield f"{command} {' '.join(action.option_strings) or action.dest.upper()}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(all_options()) + "\n")
