"""The options of `python -m teacher_server`."""

from __future__ import annotations

from pathlib import Path

import pytest

from teacher_server.fleet.options import REMOVED, asked_folders, parse, parse_ranges
from trainer.common.errors import InputError

NAMES: list[str] = ["up", "scale", "status", "down", "certificates"]
COMMANDS = dict.fromkeys(NAMES, print)


def test_unknown_command_is_refused_with_those_that_are_for_users(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises((SystemExit, InputError)) as refused:
        parse(["nope"], COMMANDS)
    said = f"{capsys.readouterr().err}{refused.value}"
    assert "certificates" in said
    assert "keep" not in said


@pytest.mark.parametrize("name", REMOVED)
def test_removed_option_is_refused_with_its_replacement(name: str) -> None:
    for argv in (["up", name, "120"], ["up", f"{name}=120"]):
        with pytest.raises(ValueError, match=f"got {name}. ") as refused:
            parse(argv, COMMANDS)
        assert str(refused.value).endswith(REMOVED[name])


def test_cluster_cpus_bound_the_local_cluster() -> None:
    assert parse(["up", "--cluster-cpus", "8"], COMMANDS).cluster_cpus == 8
    with pytest.raises(ValueError, match="--cluster-cpus must be in"):
        parse(["up", "--cluster-cpus", "0"], COMMANDS)


KINDS = ("dialogue", "recommendation", "moon")


def folders(*argv: str) -> dict[str, Path]:
    return asked_folders(parse(["up", *argv], COMMANDS), KINDS)


def test_up_serves_kinds_by_their_own_option_or_by_teacher() -> None:
    assert folders("--dialogue", "a", "--teacher", "moon=b=c") == {
        "dialogue": Path("a"),
        "moon": Path("b=c"),
    }
    assert folders("--teacher", "recommendation=a") == {"recommendation": Path("a")}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--dialogue or --recommendation must be given, got neither"),
        (["--teacher", "moon"], "--teacher must be KIND=DIR with a kind of dialogue.*got 'moon'"),
        (["--teacher", "mars=a"], "got 'mars=a'. A plugin may add others"),
        (["--dialogue", "a", "--teacher", "dialogue=b"], "one folder, got dialogue, dialogue"),
    ],
)
def test_up_without_one_folder_for_each_known_kind_is_refused(
    argv: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        folders(*argv)


def test_replicas_of_a_kind_that_is_not_up_are_refused_with_those_that_are() -> None:
    assert list(parse_ranges("moon=2", KINDS)) == ["moon"]
    with pytest.raises(ValueError, match="a kind of moon and counts >= 0, got 'dialogue=1'"):
        parse_ranges("dialogue=1", ["moon"])


def test_kind_with_the_name_of_the_directory_is_refused() -> None:
    options = parse(["up", "--dialogue", "a"], COMMANDS)
    with pytest.raises(ValueError, match="must not be named directory"):
        asked_folders(options, (*KINDS, "directory"))
