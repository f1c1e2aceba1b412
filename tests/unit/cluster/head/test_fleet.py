from __future__ import annotations

from pathlib import Path

import pytest

from cluster.head import fleet
from cluster.head.fleet import checked, fleet_command
from teacher_server.fleet.options import parse
from trainer.common.errors import InputError, MissingError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONKD_SHARED", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(fleet, "has_gpus", lambda: True)
    for kind in ("dialogue", "recommendation"):
        (tmp_path / "teachers" / kind).mkdir(parents=True)
    return tmp_path


def test_up_is_filled_in(root: Path) -> None:
    python, module, *argv = fleet_command(["up", "dialogue=0..8,recommendation=1"])
    assert (python, module) == ("-m", "teacher_server")
    options = parse(argv)
    assert options.replicas == "dialogue=0..8,recommendation=1"
    assert (options.address, options.host) == ("auto", "0.0.0.0")
    assert options.dialogue == root / "teachers" / "dialogue"
    assert options.recommendation == root / "teachers" / "recommendation"
    assert str(options.tls) == "/home/me/conkd-tls-server"
    assert str(options.token_file) == "/home/me/conkd-tls/token"
    assert options.replica_ports == (50100, 50199)
    assert options.num_gpus == "dialogue=1,recommendation=0"


def test_what_is_given_goes_before_what_is_filled_in(root: Path) -> None:
    (root / "teachers" / "large").mkdir()
    given = ["up", "dialogue=2", "--dialogue", "build/large", "--num-gpus=2", "--timeout", "5"]
    options = parse(fleet_command(given)[2:])
    assert options.dialogue == root / "teachers" / "large"
    assert options.recommendation is None
    assert (options.num_gpus, options.timeout) == ("2", 5)


def test_without_gpus_teachers_ask_for_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "has_gpus", lambda: False)
    assert parse(fleet_command(["up"])[2:]).num_gpus == "dialogue=0,recommendation=0"


def test_only_kinds_that_were_sent_are_served(root: Path) -> None:
    (root / "teachers" / "recommendation").rmdir()
    options = parse(fleet_command(["up"])[2:])
    assert (options.recommendation, options.num_gpus) == (None, "dialogue=1")
    (root / "teachers" / "dialogue").rmdir()
    with pytest.raises(MissingError, match="python -m cluster push"):
        fleet_command(["up"])


def test_roll_finds_folders_by_name(root: Path) -> None:
    command = fleet_command(["roll", "--dialogue", "dialogue"])
    assert command[-1] == str(root / "teachers" / "dialogue")
    with pytest.raises(MissingError, match="python -m cluster push absent"):
        fleet_command(["roll", "--dialogue", "absent"])


def test_other_commands_go_through_as_they_are(root: Path) -> None:
    assert fleet_command(["scale", "dialogue=4"])[2:] == ["scale", "dialogue=4"]
    with pytest.raises(InputError, match="got --jason"):
        checked(["status", "--jason"])
