from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.commands import down
from cluster.commands.cluster import Cluster
from cluster.commands.shell import Shell
from trainer.common.errors import InputError, MissingError, UnreachableError

ROOT = Path(__file__).resolve().parents[4]
LOCAL, CLOUD = ROOT / "cluster" / "local.yaml", ROOT / "cluster" / "gpu.yaml"


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh and rsync, whatever this machine has."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def run(name: str, *, going: bool = False, pulled: bool = True) -> dict[str, Any]:
    return {"name": name, "going": going, "pulled": pulled}


def head_answers(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def answer_of(*_: object) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(down, "answer_of", answer_of)


def test_cluster_whose_runs_were_pulled_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    head_answers(monkeypatch, [run("a"), run("b")])
    down.check_runs(Cluster(LOCAL))


def test_runs_that_would_be_lost_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    head_answers(monkeypatch, [run("a"), run("b", pulled=False), run("c", going=True)])
    with pytest.raises(InputError, match="got 2 that are not") as refused:
        down.check_runs(Cluster(LOCAL))
    assert refused.value.details == ("b: not pulled", "c: still training")


def test_machines_of_ones_own_end_without_a_head_and_a_cloud_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head_answers(monkeypatch, UnreachableError("no answer."))
    down.check_runs(Cluster(LOCAL))
    assert "runs could not be looked at: no answer." in capsys.readouterr().out
    with pytest.raises(InputError, match="--force ends the cluster"):
        down.check_runs(Cluster(CLOUD))


def test_cluster_without_a_head_has_no_runs_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    head_answers(monkeypatch, MissingError("the cluster must be up."))
    down.check_runs(Cluster(CLOUD))


@pytest.mark.parametrize("workers_only", [False, True])
def test_control_plane_ends_first_and_the_heads_files_go_last(
    workers_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[tuple[list[str], bool]] = []

    def clean(shells: list[Shell], *_: object, files: bool, **__: object) -> list[str]:
        cleaned.append(([it.address for it in shells], files))
        return []

    monkeypatch.setattr(down, "_clean", clean)
    assert down.clean_hosts(Cluster(LOCAL), workers_only=workers_only) == []
    head, others = ["192.0.2.10"], [f"192.0.2.{it}" for it in (11, 12, 13, 14)]
    expected = [(head, False), (others, True), (head, True)]
    assert cleaned == expected[: 2 if workers_only else 3]


def test_hosts_that_are_not_clean_are_named_each_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def script(shell: Shell, *_: object, **__: object) -> str:
        if shell.address == "192.0.2.12":
            raise UnreachableError("it must answer.")
        left = ["7 python"] if shell.address == "192.0.2.13" else []
        kept = ["conkd-tls"] if shell.address == "192.0.2.14" else []
        return json.dumps({"ended": 0, "left": left, "removed": [], "kept": kept})

    monkeypatch.setattr(Shell, "script", script)
    assert down.clean_hosts(Cluster(LOCAL), workers_only=False) == [
        "192.0.2.12: it must answer.",
        "192.0.2.13: still runs 7 python",
        "192.0.2.14: still has conkd-tls",
    ]
