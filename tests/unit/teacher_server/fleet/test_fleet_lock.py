"""One command at a time changes a fleet, and a dead one stops nobody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from teacher_server.fleet import fleet_lock
from teacher_server.fleet.fleet_lock import changing
from teacher_server.fleet.local_cluster import FleetState, write_state
from teacher_server.main import main
from trainer.common.errors import InputError, MissingError

HELD = rf"one command at a time, got `roll` of process {os.getpid()} at work\. .*kill -INT"


@pytest.mark.parametrize("command", [["scale", "dialogue=1"], ["roll"], ["down"]])
def test_second_command_names_the_first_and_what_to_do(command: list[str], tmp_path: Path) -> None:
    record = tmp_path / "fleet.json"
    write_state(record, FleetState(ray_address="127.0.0.1:1", directory="a"))
    with changing(record, "roll"), pytest.raises(InputError, match=HELD):
        main([*command, "--fleet", str(record)])
    assert sorted(it.name for it in tmp_path.iterdir()) == ["fleet.json"]


def test_up_names_the_command_that_is_at_work(tmp_path: Path) -> None:
    record = tmp_path / "runs" / "fleet.json"
    with changing(record, "roll"):
        with pytest.raises(InputError, match=HELD), changing(record, "up"):
            pytest.fail("held by another")
        assert [it.name for it in record.parent.iterdir()] == ["fleet.json.lock"]
    with changing(record, "up"):
        assert (record.parent / "fleet.json.lock").read_text() == f"{os.getpid()} up"


def test_holder_that_has_not_written_its_name_yet_is_told_without_one(tmp_path: Path) -> None:
    record = tmp_path / "fleet.json"
    with changing(record, "roll"):
        (tmp_path / "fleet.json.lock").write_text("")
        told = r"at a time, got another one that begins\. Give"
        with pytest.raises(InputError, match=told), changing(record, "up"):
            pytest.fail("held by another")


def test_lock_of_a_command_that_was_killed_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "fleet.json.lock").write_text("4194304 roll of a long time ago")
    with changing(tmp_path / "fleet.json", "down"):
        assert (tmp_path / "fleet.json.lock").read_text() == f"{os.getpid()} down"


def test_lock_that_its_holder_removed_between_opening_and_locking_is_not_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, lock = tmp_path / "fleet.json", tmp_path / "fleet.json.lock"
    flock, opened = fleet_lock.fcntl.flock, []

    def lock_what_is_gone(file: object, how: int) -> None:
        if not opened:
            lock.unlink()
        opened.append(file)
        flock(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fleet_lock.fcntl, "flock", lock_what_is_gone)
    with changing(record, "roll"):
        assert len(opened) == 2 and lock.is_file()


def test_command_without_a_fleet_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        main(["down", "--fleet", str(tmp_path / "runs" / "fleet.json")])
    assert list(tmp_path.iterdir()) == []
