from __future__ import annotations

from typing import Any

import pytest

from cluster.head import status

NODES = {"head": ["10.0.0.1"], "teacher": ["10.0.0.2", "10.0.0.3"], "student": []}


def run(name: str, **changes: Any) -> dict[str, Any]:
    shown = {
        **{"name": name, "state": "running", "exit_status": None, "pulled": False},
        **{"nodes": 1, "wanted_nodes": 2, "step": 1200},
    }
    return {**shown, **changes}


def found(monkeypatch: pytest.MonkeyPatch, runs: list[dict[str, Any]], fleet: str) -> None:
    problem = "" if fleet else "a fleet must be up, got none."
    content = {"nodes": NODES, "runs": runs}
    monkeypatch.setattr(status, "_found", lambda *_: (content, fleet, problem))


def test_nodes_and_runs_are_lines_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [
        run("x" * 64),
        run("b", state="failed", exit_status=2, pulled=True, nodes=0),
        run("hand", state="unknown", wanted_nodes=None, step=None),
    ]
    found(monkeypatch, runs, "the fleet\n")
    lines = status.as_text().splitlines()
    assert lines[0] == "head 10.0.0.1; nodes: 2 teacher, 0 student"
    assert max(map(len, lines)) <= 80
    rows = [it.split() for it in lines[3:6]]
    assert rows == [
        ["x" * 34, "running", "1/2", "1,200", "no"],
        ["b", "failed", "(2)", "0/2", "1,200", "yes"],
        ["hand", "unknown", "-", "-", "no"],
    ]
    assert lines[-1] == "the fleet"


def test_older_runs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, [run(f"run{it}") for it in range(status.MAX_RUNS + 3)], "")
    lines = status.as_text().splitlines()
    assert "and 3 older ones" in lines
    assert lines[-1] == "teachers: a fleet must be up, got none."


def test_json_has_the_fleet_as_it_says_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, [], '{"dialogue": {"replicas": []}}')
    assert status.as_json()["fleet"] == {"dialogue": {"replicas": []}}
    found(monkeypatch, [], "")
    shown = status.as_json()
    assert (shown["fleet"], shown["fleet_problem"]) == (None, "a fleet must be up, got none.")


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("W ray: slow\nerror: the token must be ours. Look.\n", "the token must be ours. Look."),
        ("Traceback\nKeyError: 'a'\n", "KeyError: 'a'"),
        ("", "its status ended without a word"),
    ],
)
def test_fleet_that_does_not_answer_says_why(said: str, problem: str) -> None:
    assert status._error_of(said) == problem
