"""The options of `python -m teacher_server`."""

from __future__ import annotations

from pathlib import Path

import pytest

from teacher_server.fleet.options import (
    REMOVED,
    asked_batch_limits,
    asked_folders,
    folders_anew,
    parse,
    parse_dtypes,
    parse_ranges,
)
from teacher_server.scoring.device_batches import BatchLimits
from teacher_server.scoring.kinds import SERVED_KINDS
from trainer.common.errors import InputError


def test_unknown_command_is_refused_with_those_that_are_for_users() -> None:
    with pytest.raises(InputError) as refused:
        parse(["nope"])
    assert "one of up, scale, roll, status, down, certificates, got nope" in str(refused.value)


@pytest.mark.parametrize("name", REMOVED)
def test_removed_option_is_refused_with_its_replacement(name: str) -> None:
    for argv in (["up", name, "120"], ["up", f"{name}=120"]):
        with pytest.raises(ValueError, match=f"got {name}. ") as refused:
            parse(argv)
        assert str(refused.value).endswith(REMOVED[name])


def test_cluster_cpus_bound_the_local_cluster() -> None:
    assert parse(["up", "--cluster-cpus", "8"]).cluster_cpus == 8
    with pytest.raises(ValueError, match="--cluster-cpus must be a whole number in"):
        parse(["up", "--cluster-cpus", "0"])


KINDS = ("dialogue", "recommendation", "moon")


def folders(*argv: str) -> dict[str, Path]:
    return asked_folders(parse(["up", *argv]), KINDS)


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


def test_roll_takes_folders_of_the_kinds_that_are_up_alone() -> None:
    assert folders_anew(parse(["roll"]), KINDS) == {}
    given = parse(["roll", "--dialogue", "a", "--teacher", "moon=b"])
    assert folders_anew(given, KINDS) == {"dialogue": Path("a"), "moon": Path("b")}
    with pytest.raises(InputError, match="--dialogue must be left out, got a: the fleet has moon"):
        folders_anew(given, ["moon"])
    with pytest.raises(InputError, match=r"--teacher must be KIND=DIR .* got 'mars=b'"):
        folders_anew(parse(["roll", "--teacher", "mars=b"]), KINDS)


def test_replicas_of_a_kind_that_is_not_up_are_refused_with_those_that_are() -> None:
    assert list(parse_ranges("moon=2", KINDS)) == ["moon"]
    with pytest.raises(ValueError, match="a kind of moon and counts >= 0, got 'dialogue=1'"):
        parse_ranges("dialogue=1", ["moon"])


def test_kind_with_the_name_of_the_directory_is_refused() -> None:
    options = parse(["up", "--dialogue", "a"])
    with pytest.raises(ValueError, match="must not be named directory"):
        asked_folders(options, (*KINDS, "directory"))


def test_kinds_compute_in_float32_unless_another_type_is_asked_for() -> None:
    kinds = SERVED_KINDS
    assert parse_dtypes("", kinds) == {"dialogue": "float32", "recommendation": "float32"}
    assert parse_dtypes("dialogue=bf16", kinds)["dialogue"] == "bf16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bf16", "--dtype must be KIND=TYPE.* with a kind of dialogue, recommendation, got 'bf16'"),
        ("moon=bf16", "got 'moon=bf16'"),
        ("dialogue=", "got 'dialogue='"),
        ("dialogue=half", "of dialogue teachers must be one of float32, bf16, fp16, got half"),
        ("recommendation=bf16", "of recommendation teachers must be one of float32, got bf16"),
        ("dialogue=bf16,dialogue=fp16", "every kind once, got dialogue twice"),
    ],
)
def test_type_that_a_kind_cannot_compute_in_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_dtypes(text, SERVED_KINDS)


def test_deterministic_fleet_has_device_batches_of_one_example() -> None:
    limits = BatchLimits(**asked_batch_limits(parse(["up", "--deterministic"])))
    assert (limits.max_examples, limits.token_budget) == (1, 4096)
    plain = asked_batch_limits(parse(["up", "--token-budget", "9"]))
    assert BatchLimits(**plain) == BatchLimits(token_budget=9)
