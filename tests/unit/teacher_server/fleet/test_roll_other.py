"""Another teacher follows the one that serves: what runs, what the record says, what is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from teacher_server.fleet import roll, roll_other, roll_room
from teacher_server.fleet.deployment import app_name, deployment_name
from teacher_server.fleet.fleet_change import FleetChange
from teacher_server.fleet.local_cluster import FleetState, read_state
from teacher_server.fleet.roll import roll_fleet, undo_interrupted
from teacher_server.fleet.roll_plan import RollPlan
from teacher_server.fleet.scaling import ReplicaRange
from teacher_server.fleet.succession import counted_ranges
from tests.support.fake_serve import FakeServe, changed_fleet
from trainer.common.errors import InputError, MachineError


def options_of(weights: str, folder: Path | str) -> dict[str, Any]:
    pin = {"weights_digest": weights}
    return {"folder": str(folder), "num_cpus": 0.5, "num_gpus": 0.0, "dtype": "f", "pin": pin}


OPTIONS = {"dialogue": options_of("old", "d"), "recommendation": options_of("r", "r")}
STATE = FleetState(ray_address="a", directory="127.0.0.1:5", options=OPTIONS)
NEW = options_of("new", "n")

Rolled = Callable[..., tuple[FleetChange, list[str]]]


@pytest.fixture
def rolled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rolled:
    monkeypatch.setattr(roll, "check_folder_of", lambda *_: None)

    def make(
        serve: FakeServe, state: FleetState = STATE, free_cpus: float = 1.0
    ) -> tuple[FleetChange, list[str]]:
        path = tmp_path / "fleet.json"
        return changed_fleet(serve, path, state, monkeypatch, free_cpus=free_cpus)

    return make


def to_other(fleet: FleetChange, options: Mapping[str, Any] = NEW) -> dict[str, Any]:
    """Roll the dialogue teacher to another one, and the others as they are."""
    groups = fleet.state.current.items()
    same = {group: fleet.state.options[group] for kind, group in groups if kind != "dialogue"}
    plan = RollPlan(same=same, others={"dialogue": options}, drain_s=9.0)
    return roll_fleet(fleet, plan)


def same_again(fleet: FleetChange, drain_s: float | None = None) -> None:
    groups = fleet.state.current.values()
    same = {group: fleet.state.options[group] for group in groups}
    roll_fleet(fleet, RollPlan(same=same, others={}, drain_s=drain_s))


def test_other_teacher_serves_beside_the_old_one_which_retires(
    rolled: Rolled, tmp_path: Path
) -> None:
    serve = FakeServe()
    fleet, said = rolled(serve)
    replaced = to_other(fleet)
    assert serve.running["dialogue"] == ["d1", "d2"]
    new = serve.running["dialogue.2"]
    assert replaced["dialogue"] == [("d1", new[0]), ("d2", new[1])]
    assert [old for old, _ in replaced["recommendation"]] == ["r1"]
    assert serve.retiring == {"dialogue"}
    state = read_state(tmp_path / "fleet.json")
    assert state == fleet.state
    assert state.current == {"recommendation": "recommendation", "dialogue": "dialogue.2"}
    assert (state.retiring, state.retiring_weights) == ({"dialogue": 9.0}, {"dialogue": ["old"]})
    assert state.options["dialogue"] == OPTIONS["dialogue"]
    assert state.options["dialogue.2"] == NEW
    assert any("dialogue: retires" in line and "for 9 s" in line for line in said)


def test_next_roll_replaces_what_retires_and_forgets_what_has_ended(
    rolled: Rolled, tmp_path: Path
) -> None:
    serve = FakeServe()
    fleet, _ = rolled(serve)
    to_other(fleet)
    same_again(fleet)
    assert serve.retiring == {"dialogue"}
    assert not {"d1", "d2"} & set(serve.running["dialogue"])
    assert {serve.of[it] for it in serve.running["dialogue"]} == {serve.versions["dialogue"]}
    serve.running["dialogue"] = []
    same_again(fleet)
    assert "dialogue" not in serve.running
    state = read_state(tmp_path / "fleet.json")
    assert list(state.options) == ["recommendation", "dialogue.2"]
    assert (dict(state.retiring), state.retiring_weights) == ({}, {})
    to_other(fleet, options_of("third", "t"))
    assert fleet.state.current["dialogue"] == "dialogue.3"


@pytest.mark.parametrize(("drain_s", "then_s"), [(None, 9.0), (5.0, 5.0)])
def test_what_retires_keeps_its_time_unless_a_roll_names_another(
    drain_s: float | None, then_s: float, rolled: Rolled, tmp_path: Path
) -> None:
    serve = FakeServe()
    fleet, said = rolled(serve)
    to_other(fleet)
    same_again(fleet, drain_s)
    assert read_state(tmp_path / "fleet.json").retiring == {"dialogue": then_s}
    assert serve.drains == {"dialogue": then_s}
    assert any("used it for 5 s" in line for line in said) == (drain_s is not None)


def test_time_to_retire_of_nobody_is_told_to_change_nothing(rolled: Rolled) -> None:
    fleet, said = rolled(FakeServe())
    same_again(fleet, 5.0)
    assert "no teacher retires, so --drain-s changes nothing" in said


def test_roll_back_takes_the_replicas_that_retire(rolled: Rolled) -> None:
    serve = FakeServe()
    fleet, _ = rolled(serve)
    to_other(fleet)
    to_other(fleet, OPTIONS["dialogue"])
    assert {group: len(ids) for group, ids in serve.running.items()} == {
        "dialogue": 2,
        "recommendation": 1,
        "directory": 1,
        "dialogue.2": 2,
    }
    assert fleet.state.current["dialogue"] == "dialogue"
    assert fleet.state.retiring_weights == {"dialogue": ["new"]}
    assert serve.retiring == {"dialogue.2"}


@pytest.mark.parametrize("back", [False, True])
def test_other_teacher_that_does_not_start_leaves_the_fleet_as_it_was(
    back: bool, rolled: Rolled, tmp_path: Path
) -> None:
    serve = FakeServe(bad_group="dialogue.2")
    fleet, said = rolled(serve)
    if back:
        serve.running["dialogue.2"] = []
        options = {**OPTIONS, "dialogue.2": NEW}
        retiring = {"dialogue.2": 9.0}
        fleet.state = dataclasses.replace(STATE, options=options, retiring=retiring)
        serve.ranges["dialogue.2"] = ReplicaRange.of(2)
        serve.versions["dialogue.2"] = "1"
        serve.running["dialogue.2"], serve.of["o1"] = ["o1"], "1"
    before = fleet.state
    told = r"a new dialogue\.2 replica must start, got: .*no\. dialogue serves as before; .*: .*rec"
    with pytest.raises(MachineError, match=told):
        to_other(fleet)
    state = read_state(tmp_path / "fleet.json")
    assert dataclasses.replace(state, versions={}) == before
    assert serve.running["dialogue"] == ["d1", "d2"]
    assert serve.retiring == ({"dialogue.2"} if back else set())
    assert ("dialogue.2" in serve.running) == back
    assert any(line.endswith("Taking it back.") for line in said)


@pytest.mark.parametrize(
    ("free_cpus", "keeper_pid", "told"),
    [
        (
            0.9,
            0,
            r"no place for 1 of 2: one takes 0\.5 CPUs and 0 GPUs of one node, and free are 0\.9",
        ),
        (9.0, 1, "weights that exceed this machine's memory together"),
    ],
)
def test_other_teacher_without_room_is_refused_before_anything_is_started(
    free_cpus: float,
    keeper_pid: int,
    told: str,
    rolled: Rolled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("d", "n"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(8))
    # Of two replicas of four bytes there is room for one more, and two are wanted.
    monkeypatch.setattr(roll_room, "memory_bytes", lambda: 15)
    serve = FakeServe()
    options = {**OPTIONS, "dialogue": options_of("old", tmp_path / "d")}
    state = dataclasses.replace(STATE, options=options, keeper_pid=keeper_pid)
    fleet, said = rolled(serve, state, free_cpus)
    with pytest.raises(InputError, match=told):
        to_other(fleet, options_of("new", tmp_path / "n"))
    assert (serve.surges, said) == ([], [])
    assert read_state(tmp_path / "fleet.json") == state


def test_kind_at_none_gets_one_replica_of_the_old_teacher_for_those_who_may_ask(
    rolled: Rolled,
) -> None:
    serve = FakeServe()
    serve.running["dialogue"], serve.ranges["dialogue"] = [], ReplicaRange(min=0, max=4)
    fleet, _ = rolled(serve)
    to_other(fleet)
    assert serve.scaled == ["dialogue 1..4"]
    assert {group: len(ids) for group, ids in serve.running.items()} == {
        "dialogue": 1,
        "recommendation": 1,
        "directory": 1,
        "dialogue.2": 1,
    }


def test_kind_that_is_off_changes_its_teacher_where_it_is(rolled: Rolled, tmp_path: Path) -> None:
    serve = FakeServe()
    serve.running["dialogue"], serve.ranges["dialogue"] = [], ReplicaRange.of(0)
    fleet, _ = rolled(serve, STATE, 0.5)
    to_other(fleet)
    state = read_state(tmp_path / "fleet.json")
    assert state.options["dialogue"] == NEW
    assert (list(state.retiring), serve.running["dialogue"]) == ([], [])


def test_interrupted_roll_is_ended_by_the_next_one(rolled: Rolled, tmp_path: Path) -> None:
    serve = FakeServe()
    fleet, said = rolled(serve)
    fleet.wait = lambda replacing: (_ for _ in ()).throw(  # type: ignore[method-assign]
        KeyboardInterrupt if replacing.kind == "dialogue.2" else StopAsyncIteration
    )
    plan = RollPlan(same={}, others={"dialogue": NEW}, drain_s=9.0)
    with pytest.raises(KeyboardInterrupt):
        roll_fleet(fleet, plan)
    assert said[-1].endswith("roll again, to have dialogue retire")
    assert serve.retiring == set()
    again, _ = rolled(serve, read_state(tmp_path / "fleet.json"))
    same_again(again)
    assert serve.retiring == {"dialogue"}
    assert again.state.retiring_weights == {"dialogue": ["old"]}


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_roll_interrupted_while_the_old_teacher_wakes_has_changed_nothing(
    rolled: Rolled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = FakeServe()
    serve.running["dialogue"], serve.ranges["dialogue"] = [], ReplicaRange(min=0, max=4)
    fleet, said = rolled(serve)
    monkeypatch.setattr(roll_other, "wait_until_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        to_other(fleet)
    assert dataclasses.replace(read_state(tmp_path / "fleet.json"), versions={}) == STATE
    assert said[-1] == "dialogue: serves as before"
    # Its range of before, which lets it end again.
    assert serve.surges[-1] == ("dialogue", False)


@pytest.mark.parametrize("old", [["d1", "d2"], []])
def test_roll_interrupted_before_serve_has_the_new_group_is_undone_by_the_next_one(
    old: list[str], rolled: Rolled, tmp_path: Path
) -> None:
    serve = FakeServe()
    serve.running["dialogue"], serve.ranges["dialogue"] = old, ReplicaRange(min=0, max=4)
    fleet, said = rolled(serve)
    serve.start_beside = interrupt  # type: ignore[method-assign]
    fleet, said = rolled(serve)
    with pytest.raises(KeyboardInterrupt):
        to_other(fleet)
    assert "dialogue.2: Serve does not have it; dialogue serves on" in said[-1]
    del serve.start_beside
    serve.running["dialogue"] = []  # Idle again: it has not ended, since it does not retire.
    again, said = rolled(serve, read_state(tmp_path / "fleet.json"))
    with pytest.raises(MachineError, match=r"must know the dialogue\.2 .* undoes what an inter"):
        same_again(again)
    assert undo_interrupted(again)
    assert said == ["dialogue.2: a roll was interrupted before Serve had it; dialogue serves on"]
    assert dataclasses.replace(read_state(tmp_path / "fleet.json"), versions={}) == STATE
    assert not undo_interrupted(again)
    to_other(again)
    assert (again.state.current["dialogue"], list(again.state.retiring)) == (
        "dialogue.2",
        ["dialogue"],
    )


def test_group_that_cannot_be_removed_stays_in_the_record_until_it_is_gone(
    rolled: Rolled, tmp_path: Path
) -> None:
    def refuse(group: str) -> None:
        if group in serve.running:
            raise TimeoutError("Deployment wasn't deleted after 60s.")

    serve = FakeServe(bad_group="dialogue.2")
    serve.remove_group = refuse  # type: ignore[method-assign]
    fleet, _ = rolled(serve)
    with pytest.raises(MachineError, match=r"not be taken back, either: .* after 60s"):
        to_other(fleet)
    assert read_state(tmp_path / "fleet.json").current["dialogue"] == "dialogue.2"
    assert serve.running["directory"] == ["x1"]
    del serve.running["dialogue.2"], serve.remove_group
    again, _ = rolled(serve, read_state(tmp_path / "fleet.json"))
    assert undo_interrupted(again)
    assert dataclasses.replace(again.state, versions={}) == STATE


def test_group_that_the_record_does_not_know_makes_way_for_one_of_its_name(rolled: Rolled) -> None:
    serve = FakeServe()
    serve.running["dialogue.2"], serve.of["o1"] = ["o1"], "1"
    serve.versions["dialogue.2"], serve.ranges["dialogue.2"] = "1", ReplicaRange.of(1)
    fleet, _ = rolled(serve)
    to_other(fleet)
    assert len(serve.running["dialogue.2"]) == 2 and "o1" not in serve.running["dialogue.2"]
    assert fleet.state.version_of("dialogue.2") != "1"


def test_teacher_that_retires_counts_with_the_replicas_that_it_has(rolled: Rolled) -> None:
    serve = FakeServe()
    serve.ranges["dialogue"] = ReplicaRange(min=0, max=4)
    fleet, _ = rolled(serve)
    to_other(fleet)
    assert serve.ranges["dialogue"] == ReplicaRange(min=0, max=2)
    serve.running["dialogue"].pop()
    assert counted_ranges(fleet.state, serve.fleet_status()) == {
        "dialogue": ReplicaRange.of(1),
        "dialogue.2": ReplicaRange(min=0, max=4),
        "recommendation": ReplicaRange.of(1),
    }


@pytest.mark.parametrize(
    ("vocabulary", "told"),
    [
        ("v", r"New students take the other dialogue teacher\.$"),
        ("w", r"they end\. Roll again with"),
    ],
)
def test_directory_hears_of_the_kind_that_was_rolled_before_another_one_failed(
    vocabulary: str, told: str, rolled: Rolled
) -> None:
    def of(options: Mapping[str, Any], vocabulary: str) -> dict[str, Any]:
        return {**options, "pin": {**options["pin"], "vocabulary_digest": vocabulary}}

    serve = FakeServe(bad_group="recommendation.2")
    options = {kind: of(it, "v") for kind, it in OPTIONS.items()}
    fleet, _ = rolled(serve, dataclasses.replace(STATE, options=options), 9.0)
    others = {"dialogue": of(NEW, vocabulary), "recommendation": of(NEW, vocabulary)}
    with pytest.raises(MachineError, match=told):
        roll_fleet(fleet, RollPlan(same={}, others=others, drain_s=9.0))
    assert fleet.state.current == {"recommendation": "recommendation", "dialogue": "dialogue.2"}
    assert serve.running["directory"] != ["x1"]


def test_interrupt_after_a_teacher_has_followed_says_that_the_directory_does_not_know(
    rolled: Rolled,
) -> None:
    serve = FakeServe()
    fleet, said = rolled(serve, free_cpus=9.0)
    wait = fleet.wait
    fleet.wait = lambda it: interrupt() if it.kind == "recommendation.2" else wait(it)  # type: ignore[method-assign]
    others = {"dialogue": NEW, "recommendation": NEW}
    with pytest.raises(KeyboardInterrupt):
        roll_fleet(fleet, RollPlan(same={}, others=others, drain_s=9.0))
    assert said[-1] == "roll again: until then new students may take the old teacher"
    assert serve.running["directory"] == ["x1"]


def test_groups_have_applications_of_their_own_and_one_name_of_the_deployment() -> None:
    assert app_name("dialogue.2") == "conkd-dialogue.2"
    assert deployment_name("dialogue.2") == deployment_name("dialogue") == "DialogueTeacher"
