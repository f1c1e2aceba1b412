from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.commands import logs
from cluster.commands.cluster import Cluster
from cluster.commands.shell import Shell
from trainer.common.errors import MachineError, MissingError, UnreachableError

ROOT = Path(__file__).resolve().parents[4]
LOCAL = ROOT / "cluster" / "local.yaml"
HELLO = ["python", "-m", "hello"]


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh and rsync, whatever this machine has."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def ends(monkeypatch: pytest.MonkeyPatch, status: int, out: str = "", err: str = "") -> None:
    """Commands on every host end so."""

    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess((), status, out, err)

    monkeypatch.setattr(subprocess, "run", run)


def behind_head(tmp_path: Path) -> Path:
    text = LOCAL.read_text().replace(
        "head_ip: 192.0.2.10", "head_ip: 192.0.2.10\n  external_head_ip: 203.0.113.1"
    )
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_machines_are_logged_in_to_as_the_file_says() -> None:
    cluster = Cluster(LOCAL)
    assert cluster.head == Shell(address="192.0.2.10", user="ubuntu", key="~/.ssh/id_ed25519")
    assert [it.address for it in cluster.workers()] == [f"192.0.2.{it}" for it in (11, 12, 13, 14)]
    assert {it.proxy for it in cluster.workers()} == {None}


def test_machines_behind_the_head_are_reached_through_it(tmp_path: Path) -> None:
    cluster = Cluster(behind_head(tmp_path))
    assert cluster.head.address == "203.0.113.1"
    (proxy,) = {it.proxy for it in cluster.workers()}
    assert proxy is not None
    assert proxy.startswith("ssh ") and proxy.endswith(" -W %h:%p ubuntu@203.0.113.1")


def test_answer_is_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    ends(monkeypatch, 0, out="yes\n", err="a warning\n")
    assert Cluster(LOCAL).answer(HELLO) == "yes\n"


def test_error_of_a_command_on_the_head_is_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ends(monkeypatch, 2, err="a warning\nerror: x must be y, got z.\n  one\n")
    with pytest.raises(MachineError, match=r"^x must be y, got z\.$") as error:
        Cluster(LOCAL).answer(HELLO)
    assert error.value.details == ("  one",)


def test_failure_without_a_word_of_ours_has_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ends(monkeypatch, 1, err="Traceback\nKeyError: 3\n")
    with pytest.raises(MachineError, match="got status 1: KeyError: 3"):
        Cluster(LOCAL).answer(HELLO)


def test_head_that_was_not_set_up_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    ends(monkeypatch, 127, err="bash: exec: python: not found\n")
    for command in (Cluster(LOCAL).answer, Cluster(LOCAL).show):
        with pytest.raises(MissingError, match="Run: python -m cluster up"):
            command(HELLO)


def test_host_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ends(monkeypatch, 255, err="ssh: connect to host: No route to host\n")
    with pytest.raises(UnreachableError, match=r"ubuntu@192\.0\.2\.10 must .* No route"):
        Cluster(LOCAL).answer(HELLO)


def test_log_that_breaks_off_says_that_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ends(monkeypatch, 255)
    with pytest.raises(UnreachableError, match="python -m cluster logs run"):
        logs.follow(Cluster(LOCAL), "run")


def test_ctrl_c_leaves_the_run_to_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupted)
    assert logs.follow(Cluster(LOCAL), "run") == 0
    assert "left run to itself" in capsys.readouterr().err


def test_without_ssh_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MissingError, match="ssh must be installed here"):
        _ = Cluster(LOCAL).head
