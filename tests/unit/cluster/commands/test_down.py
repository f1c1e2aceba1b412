from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.commands import down
from cluster.commands.cluster import Cluster
from trainer.common.errors import InputError, MissingError, UnreachableError

ROOT = Path(__file__).resolve().parents[4]
LOCAL, CLOUD = ROOT / "cluster" / "local.yaml", ROOT / "cluster" / "gpu.yaml"


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
