"""What `up` checks of this machine, and the file by which later commands find the fleet."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from teacher_server.fleet.local_cluster import (
    MAX_TEMPORARY_PATH,
    FleetState,
    check_port_free,
    check_reachable,
    clear_folder,
    is_alive,
    read_state,
    start_keeper,
    start_of,
    write_state,
)
from teacher_server.fleet.ray_private import ON_LOOPBACK


def test_check_port_free_names_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ours = f"process {os.getpid()} "
        with pytest.raises(OSError, match=f"127.0.0.1:{port} must be free, got one of {ours}"):
            check_port_free("127.0.0.1", port)
    check_port_free("127.0.0.1", port)


def test_check_reachable_names_the_cluster_that_is_not() -> None:
    check_reachable("auto")
    with pytest.raises(ConnectionError, match=r"must be reachable at 127\.0\.0\.1:1"):
        check_reachable("127.0.0.1:1")


def test_state_of_a_keeper_whose_pid_passed_to_another_is_not_alive(tmp_path: Path) -> None:
    start = start_of(os.getpid())
    boot, ticks = start.split()
    ours = FleetState(ray_address="a", directory="b", keeper_pid=os.getpid(), keeper_start=start)
    write_state(tmp_path / "fleet.json", ours)
    assert read_state(tmp_path / "fleet.json") == ours
    assert is_alive(ours)
    for other in (f"{boot} {int(ticks) - 1}", f"another-boot {ticks}", ""):
        assert not is_alive(dataclasses.replace(ours, keeper_start=other))
    # A time of day would move when the clock is set.
    assert start_of(os.getpid()) == start
    assert start_of(1 << 22) == ""


@pytest.mark.parametrize("content", ['{"ray_address": "a", "pace": {}}', "[]", "{torn"])
def test_record_of_another_version_is_refused_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "fleet.json").write_text(content)
    with pytest.raises(ValueError, match=r"fleet\.json must be the record .* keeper_pid"):
        read_state(tmp_path / "fleet.json")


def test_folder_of_a_killed_keeper_is_cleared_and_no_other(tmp_path: Path) -> None:
    for name, stays in (("conkd-ray-x", False), ("mine", True)):
        folder = tmp_path / name
        folder.mkdir()
        state = FleetState(
            ray_address="a", directory="b", auth_token_path=str(folder / "auth_token")
        )
        clear_folder(state)
        assert folder.exists() == stays
    clear_folder(FleetState(ray_address="a", directory="b"))


class Started:
    """A process that was asked for, and not started."""

    def __init__(self, command: list[str], *, env: dict[str, str], **_: object) -> None:
        self.folder = Path(command[-1].removeprefix("--folder="))
        self.env = env


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], Started]]:
    """Start a keeper; what was asked for."""
    made: list[Started] = []

    def note(*args: Any, **kwargs: Any) -> Started:
        made.append(Started(*args, **kwargs))
        return made[-1]

    def start(on_loopback: bool) -> Started:
        start_keeper(num_cpus=1, on_loopback=on_loopback)
        return made[-1]

    monkeypatch.setattr(subprocess, "Popen", note)
    yield start
    for each in made:
        shutil.rmtree(each.folder)


@pytest.mark.parametrize("length", [MAX_TEMPORARY_PATH + 1, 80])
def test_folder_of_ray_is_short_enough_for_its_sockets_under_a_long_tmpdir(
    length: int,
    tmp_path: Path,
    started: Callable[[bool], Started],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deep = tmp_path / ("a" * length)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert started(True).folder.parent == Path("/tmp")


@pytest.mark.parametrize("variable", ["RAY_memory_monitor_refresh_ms", "RAY_worker_niceness"])
def test_keeper_neither_kills_teachers_for_the_memory_of_others_nor_puts_them_behind_others(
    variable: str, started: Callable[[bool], Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    assert started(True).env[variable] == "0"
    monkeypatch.setenv(variable, "10")
    assert started(True).env[variable] == "10"


def test_cluster_of_a_loopback_fleet_is_on_loopback_and_no_other(
    started: Callable[[bool], Started],
) -> None:
    assert ON_LOOPBACK.items() <= started(True).env.items()
    assert not ON_LOOPBACK.keys() & started(False).env.keys()
