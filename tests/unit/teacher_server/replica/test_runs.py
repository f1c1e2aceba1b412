from __future__ import annotations

from teacher_server.replica.runs import MAX_RUNS, OTHER, UNNAMED, Runs


def test_runs_without_requests_are_none() -> None:
    assert Runs().now() == {}


def test_runs_are_counted_by_their_ids_and_those_without_together() -> None:
    runs = Runs()
    for run_id in ("b", "", "a", "b", ""):
        runs.of(run_id).requests += 1
    runs.of("a").device_s += 0.5
    now = runs.now()
    assert {name: it.requests for name, it in now.items()} == {"a": 1, "b": 2, UNNAMED: 2}
    assert (now["a"].device_s, now["b"].device_s) == (0.5, 0.0)


def test_runs_beyond_the_most_are_added_to_others_least_recently_used_first() -> None:
    runs = Runs(most=2)
    for run_id in ("a", "b", "a", "c", "a", "d"):
        counted = runs.of(run_id)
        counted.requests += 1
        counted.device_s += 0.25
    now = runs.now()
    assert {name: it.requests for name, it in now.items()} == {"a": 3, "d": 1, OTHER: 2}
    assert now[OTHER].device_s == 0.5


def test_runs_keep_so_many_labels_whatever_ids_come() -> None:
    runs = Runs()
    for number in range(10 * MAX_RUNS):
        runs.of(f"run-{number}").requests += 1
    now = runs.now()
    assert len(now) == MAX_RUNS + 1
    assert sum(it.requests for it in now.values()) == 10 * MAX_RUNS
