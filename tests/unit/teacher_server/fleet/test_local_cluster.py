"""What `up` checks of this machine, and the file by which later commands find the fleet."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest

from teacher_server.fleet.local_cluster import (
    FleetState,
    check_port_free,
    check_reachable,
    clear_folder,
    is_alive,
    read_state,
    start_of,
    write_state,
)


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
