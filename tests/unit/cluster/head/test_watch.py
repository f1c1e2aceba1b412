from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.head import watch
from cluster.head.runs import Run
from cluster.head.shared import SharedFolder
from cluster.head.watch import Wishes, end_command

HERE = Path(__file__).parent


def run(name: str, folder: Path = HERE, **state: Any) -> Run:
    return Run(name=name, folder=folder, state=state, marked=None)


def test_cluster_ends_when_its_hours_are_over() -> None:
    wishes = Wishes(until_s=100.0)
    assert not wishes.are_due([], now_s=99.0)
    assert wishes.are_due([], now_s=100.0)
    assert not Wishes().are_due([run("a", exit_status=0)], now_s=1e12)


def test_cluster_ends_after_a_run_whatever_its_status() -> None:
    wishes = Wishes(after="a", asked_s=50.0)
    others = run("b", exit_status=0, updated=60.0)
    assert not wishes.are_due([run("a", updated=60.0), others], now_s=0.0)
    assert wishes.are_due([run("a", exit_status=1, updated=60.0)], now_s=0.0)
    # It had ended before, and the same command goes on with it.
    assert not wishes.are_due([run("a", exit_status=0, updated=40.0)], now_s=0.0)


@pytest.mark.parametrize(
    ("outlives", "runs", "kept"), [(True, 1, False), (False, 1, True), (False, 0, False)]
)
def test_head_stays_if_its_disk_alone_holds_a_run(
    outlives: bool,
    runs: int,
    kept: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(watch, "shared_folder", lambda: SharedFolder(root=tmp_path))
    monkeypatch.setattr(watch, "outlives_this_machine", lambda _: outlives)
    monkeypatch.setattr(watch, "all_runs", lambda _: [run("a", tmp_path)] * runs)
    command = end_command()
    assert command[:3] == ["down", "/home/me/ray_bootstrap_config.yaml", "--force"]
    assert command[3:] == (["--workers-only"] if kept else [])


class Cluster:
    """What a watcher sees and does; sleeping makes time pass."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.commands: list[list[str]] = []
        self.statuses: list[int] = []
        monkeypatch.setenv("HOME", str(folder))
        monkeypatch.setattr(watch, "shared_folder", lambda: SharedFolder(root=folder))
        monkeypatch.setattr(watch, "outlives_this_machine", lambda _: True)
        monkeypatch.setattr(watch.time, "time", lambda: self.now_s)
        monkeypatch.setattr(watch.subprocess, "run", self.run)

    def run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        self.commands.append(argv[3:])
        return subprocess.CompletedProcess(argv, self.statuses.pop(0))

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_hours_end_a_cluster_whose_shared_folder_cannot_be_read_but_for_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> list[Run]:
        raise OSError("Stale file handle")

    cluster = Cluster(tmp_path, monkeypatch)
    monkeypatch.setattr(watch, "all_runs", refuse)
    watch.write_json(tmp_path / ".conkd-watch.json", {"until_s": 100.0})
    cluster.statuses = [0]
    watch.wait(cluster.sleep)
    assert cluster.now_s == 100.0
    (command,) = cluster.commands
    assert command[0] == "down" and command[-1] == "--workers-only"
    assert "runs could not be looked at: Stale file handle" in capsys.readouterr().out


def test_end_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(tmp_path, monkeypatch)
    monkeypatch.setattr(watch, "all_runs", lambda _: [])
    watch.write_json(tmp_path / ".conkd-watch.json", {"until_s": 0.0})
    cluster.statuses = [2, 2, 0]
    watch.wait(cluster.sleep)
    assert len(cluster.commands) == 3
    assert cluster.now_s == 2 * watch.END_AGAIN_S


def test_wishes_are_kept_beside_each_other_and_watched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(watch.subprocess, "Popen", lambda argv, **_: started.append(argv))
    monkeypatch.setattr(watch.time, "time", lambda: 1000.0)
    watch.ask(hours=None, after=None)
    assert started == []
    watch.ask(hours=2, after=None)
    watch.ask(hours=None, after="a")
    assert watch._read() == Wishes(until_s=8200.0, after="a", asked_s=1000.0)
    # `up` after the head was off.
    watch.ask(hours=None, after=None)
    assert [it[1:] for it in started] == [["-m", "cluster.head", "watcher"]] * 3
