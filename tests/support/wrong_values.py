"""Wrong values for every option and setting, and what a command must say of them."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import strategies as st

from trainer.common.cli import EXIT_ERROR, run_main
from trainer.config.yaml_file import setting_types

Texts = st.SearchStrategy[str]
WORDS: Texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12
).filter(lambda word: not word.startswith("-"))
NO_NUMBERS: Texts = st.sampled_from(
    ["", " ", "x", "nan", "-inf", "0x10", "1_0", "1,5", "\u00b2", "\u0663", "1e", "--", "None"]
)


def whole(lowest: int, highest: int = (1 << 63) - 1) -> Texts:
    """Texts that are no whole number of [lowest, highest]."""
    outside = st.integers(max_value=lowest - 1) | st.integers(min_value=highest + 1)
    return NO_NUMBERS | st.sampled_from(["1.5", "1e1"]) | outside.map(str)


def number(lowest: float, highest: float) -> Texts:
    """Texts that are no number of [lowest, highest]."""
    numbers = st.floats(allow_nan=False).filter(lambda it: not lowest <= it <= highest)
    return NO_NUMBERS | numbers.map(repr)


# ROOT stands for the folder of a test, which holds these.
ABSENT: Texts = st.just("ROOT/absent")
FILE: Texts = st.just("ROOT/file")
GARBAGE: Texts = st.just("ROOT/garbage")
FOLDERS = ABSENT | FILE | GARBAGE
ENDS_S = 5.0
"""How long a thread that was told to end may take, on a busy machine."""
UNWRITABLE: Texts = st.sampled_from(["ROOT/file", "ROOT/file/below", "/proc/below"])
NO_FLAG: Texts = st.sampled_from(["", "yes", "1", "x=y"])
UNCHECKED: Texts = st.nothing()
"""Of an option that takes any text, or whose value only another machine can judge."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: a right command line, and wrong values for each option."""

    main: Callable[[list[str]], None]
    right: tuple[str, ...]
    """The command's name, if it has one, and options with their values."""
    wrong: Mapping[str, Texts]
    """Option, or name of a positional argument, -> wrong values."""
    positional: Mapping[str, int] = field(default_factory=dict)
    """Name of a positional argument -> its place in `right`."""

    def wrong_lines(self) -> st.SearchStrategy[tuple[str, str, list[str]]]:
        """(option, wrong value, command line), of all options with wrong values."""
        checked = sorted(name for name, values in self.wrong.items() if values is not UNCHECKED)
        return st.sampled_from(checked).flatmap(
            lambda name: self.wrong[name].map(lambda value: (name, value, self._line(name, value)))
        )

    def _line(self, name: str, value: str) -> list[str]:
        if name in self.positional:
            place = self.positional[name]
            return [*self.right[:place], value, *self.right[place + 1 :]]
        if name not in self.right:
            return [*self.right, f"{name}={value}"]
        place = self.right.index(name)
        return [*self.right[:place], f"{name}={value}", *self.right[place + 2 :]]


def wrong_settings(cls: type[Any]) -> st.SearchStrategy[tuple[str, str]]:
    """(dotted key, value that is no value of its type), of all settings of a config."""
    wrong = {key: _wrong_value(type_) for key, type_ in setting_types(cls)}
    return st.sampled_from(sorted(wrong)).flatmap(lambda key: st.tuples(st.just(key), wrong[key]))


def _wrong_value(type_: Any) -> Texts:
    common = ["[[1]]", "{a: {b: 1}}", "[1, x]"]
    kinds = (type_, *get_args(type_))
    if dataclasses.is_dataclass(type_):
        return st.sampled_from([*common, "x", "5", "true", "{no_such_key: 1}", "{1: 2}"])
    if any(get_origin(kind) is Literal for kind in kinds):
        return st.sampled_from([*common, "x", "true", "7.5", "-1"])
    if bool in kinds:
        return st.sampled_from([*common, "x", "2", "1.5", ".nan"])
    if int in kinds:
        texts = ["x", "true", "1.5", ".nan", ".inf", "2020-01-01", "-1"]
        return st.sampled_from([*common, *texts]) | st.integers(min_value=1 << 63).map(str)
    if float in kinds:
        texts = ["x", "true", ".nan", "-.inf", "1e999", "-1.0"]
        return st.sampled_from([*common, *texts]) | st.integers(min_value=1 << 63).map(str)
    if str in kinds:
        return st.sampled_from([*common, "5", "1.5", "true", "2020-01-01"])
    return st.sampled_from(["x", "5", "true", "[[1]]", "{a: x}"])


def refusal(
    main: Callable[[list[str]], None],
    line: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """The one line that a command says before it leaves with status 2 and nothing running."""
    assert not _has_children(), "the check below sees no more than the first"
    threads = set(threading.enumerate())
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *line])
        with pytest.raises(SystemExit) as left:
            run_main(main)
    said = capsys.readouterr()
    assert left.value.code == EXIT_ERROR, f"{line}: status {left.value.code}\n{said.err}"
    assert said.err.startswith("error: ") and said.err.count("\n") == 1, f"{line}: {said.err}"
    assert not _has_children(), f"{line}"
    # Not a count: a thread of another test may end meanwhile.
    for thread in set(threading.enumerate()) - threads:
        thread.join(ENDS_S)
        assert not thread.is_alive(), f"{line}: {thread}"
    return said.err


def _has_children() -> bool:
    # Asks the kernel. psutil reads about every process of the machine: 1,400 looks take seconds.
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def options_of(lines: list[str], command: str) -> Iterator[str]:
    """Of the frozen list of options those of one command, without --debug."""
    for line in lines:
        name, _, option = line.rpartition(" ")
        if name == f"python -m {command}" and option != "--debug":
            yield option
