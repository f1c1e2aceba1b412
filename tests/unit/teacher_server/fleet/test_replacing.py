"""Which replica took whose place, from looks at a kind."""

from __future__ import annotations

from teacher_server.fleet.replacing import Replacing


def looks(replacing: Replacing, *states: dict[str, str]) -> list[list[str]]:
    return [replacing.look(each) for each in states]


def test_new_one_first_takes_the_place_once_the_old_one_is_gone() -> None:
    replacing = Replacing("dialogue", ["a", "b"])
    said = looks(
        replacing,
        {"a": "RUNNING", "b": "RUNNING"},
        {"a": "RUNNING", "b": "RUNNING", "c": "STARTING"},
        {"a": "STOPPING", "b": "RUNNING", "c": "RUNNING"},
        {"b": "RUNNING", "c": "RUNNING", "d": "STARTING"},
        {"c": "RUNNING", "d": "RUNNING"},
    )
    assert said == [
        *([], [], []),
        ["dialogue: replica a -> c, 1 of 2"],
        ["dialogue: replica b -> d, 2 of 2"],
    ]
    assert replacing.pairs == [("a", "c"), ("b", "d")]


def test_old_one_first_is_replaced_once_the_new_one_runs() -> None:
    replacing = Replacing("dialogue", ["a"])
    said = looks(replacing, {"a": "STOPPING"}, {}, {"c": "STARTING"}, {"c": "RUNNING"})
    assert said == [[], [], [], ["dialogue: replica a -> c, 1 of 1"]]


def test_roll_is_done_when_the_wanted_number_of_new_ones_runs_and_no_other_is_there() -> None:
    replacing = Replacing("dialogue", ["a", "b"])
    assert not replacing.is_done({"a": "RUNNING", "b": "RUNNING"}, 2)
    assert not replacing.is_done({"a": "STOPPING", "c": "RUNNING", "d": "RUNNING"}, 2)
    assert not replacing.is_done({"c": "RUNNING", "d": "STARTING"}, 2)
    assert replacing.is_done({"c": "RUNNING", "d": "RUNNING"}, 2)
    # Autoscaled down meanwhile, or idle at none.
    assert replacing.is_done({"c": "RUNNING"}, 1)
    assert replacing.is_done({}, 0)
