"""`roll` on a fleet whose Serve is a few lines: what runs, what the file says, what is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayError

from teacher_server.fleet import roll
from teacher_server.fleet.certificates import make_certificates
from teacher_server.fleet.fleet_change import FleetChange
from teacher_server.fleet.local_cluster import FleetState, read_state
from teacher_server.fleet.roll import roll_fleet
from teacher_server.fleet.roll_plan import RollPlan
from teacher_server.fleet.scaling import ReplicaRange
from teacher_server.fleet.status import KindStatus
from teacher_server.fleet.trust import authorities
from tests.support.fake_serve import FakeServe, changed_fleet
from trainer.common.errors import InputError, MachineError
from trainer.security.credentials import SecurityFiles

KINDS = ("dialogue", "recommendation")
OPTIONS = {kind: {"folder": "f", "num_cpus": 0.5, "num_gpus": 0.0} for kind in KINDS}
STATE = FleetState(ray_address="a", directory="127.0.0.1:5", options=OPTIONS)
SAME = RollPlan(same=OPTIONS, others={}, drain_s=None)


@pytest.fixture
def rolled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[FakeServe, float], tuple[FleetChange, list[str]]]:
    return lambda serve, free_cpus: changed_fleet(
        serve, tmp_path / "fleet.json", STATE, monkeypatch, free_cpus=free_cpus
    )


def test_roll_replaces_every_replica_and_the_directory_and_records_new_versions(
    rolled: Any, tmp_path: Path
) -> None:
    serve = FakeServe()
    one, said = rolled(serve, 0.5)
    elsewhere = {kind: OPTIONS[kind] | {"folder": "g"} for kind in KINDS}
    replaced = roll_fleet(one, dataclasses.replace(SAME, same=elsewhere))
    assert {kind: [old for old, _ in pairs] for kind, pairs in replaced.items()} == {
        "dialogue": ["d1", "d2"],
        "recommendation": ["r1"],
        "directory": ["x1"],
    }
    assert said[0].startswith("dialogue: replica d1 -> n") and said[0].endswith(", 1 of 2")
    assert serve.surges == [("dialogue", True), ("recommendation", True)]
    state = read_state(tmp_path / "fleet.json")
    assert {state.options[kind]["folder"] for kind in KINDS} == {"g"}
    assert {state.version_of(kind) for kind in KINDS}.isdisjoint({"1"})
    assert one.state == state


def test_roll_without_room_says_that_students_wait_where_there_is_one_replica(rolled: Any) -> None:
    serve = FakeServe()
    one, said = rolled(serve, 0.4)
    roll_fleet(one, SAME)
    assert serve.surges == [("dialogue", False), ("recommendation", False)]
    waits = [line for line in said if "students wait" in line]
    assert waits == ["recommendation: no room for a second replica, so students wait for a start"]


def test_roll_whose_replicas_do_not_start_is_taken_back(rolled: Any, tmp_path: Path) -> None:
    serve = FakeServe(bad_group="dialogue")
    one, _ = rolled(serve, 0.5)
    with pytest.raises(MachineError, match=r"got: InputError: no\. .*before.* already: none"):
        roll_fleet(one, SAME)
    assert read_state(tmp_path / "fleet.json") == STATE
    assert [serve.of[it] for it in serve.running["dialogue"]] == ["1", "1"]
    assert serve.running["recommendation"] == ["r1"]
    assert serve.running["directory"] == ["x1"]


class Stuck(FakeServe):
    """A Serve that does not take new replicas in; what it runs it keeps."""

    def __init__(self, num_refusals: int) -> None:
        super().__init__()
        self._num_refusals = num_refusals

    def replace(self, *args: Any, **options: Any) -> None:
        if self._num_refusals:
            self._num_refusals -= 1
            raise RayError("Traceback:\nthe controller is gone")
        super().replace(*args, **options)


@pytest.mark.parametrize(
    ("num_refusals", "told"),
    [
        (1, r"replicas, got: the controller is gone\. The dialogue replicas are those of before"),
        (2, r"gone\. The replicas of before are not all back, either: .*controller is gone\. Look"),
    ],
)
def test_roll_that_serve_does_not_take_in_leaves_the_record_of_before(
    num_refusals: int, told: str, rolled: Any, tmp_path: Path
) -> None:
    serve = Stuck(num_refusals)
    one, _ = rolled(serve, 0.5)
    with pytest.raises(MachineError, match=told):
        roll_fleet(one, SAME)
    assert one.state == read_state(tmp_path / "fleet.json") == STATE
    assert serve.running["dialogue"] == ["d1", "d2"]


def test_failure_of_the_second_kind_names_the_first_which_stays_replaced(
    rolled: Any, tmp_path: Path
) -> None:
    serve = FakeServe(bad_group="recommendation")
    serve.running["recommendation"].append("r2")
    serve.of["r2"] = "1"
    serve.ranges["recommendation"] = ReplicaRange.of(2)
    one, _ = rolled(serve, 0.5)
    with pytest.raises(MachineError, match=r"recommendation replicas are .* already: dialogue\."):
        roll_fleet(one, SAME)
    state = read_state(tmp_path / "fleet.json")
    assert state.version_of("recommendation") == "1" != state.version_of("dialogue")


class WithoutDirectory(FakeServe):
    """A fleet whose Directory failed in the roll before."""

    def replace_directory(self, state: FleetState) -> None:
        super().replace_directory(state)
        self.of["x2"] = self.versions["directory"]
        self.running["directory"] = ["x2"]

    def _look(self, kind: str) -> KindStatus:
        status = super()._look(kind)
        if kind == "directory" and self.versions[kind] == "1":
            return dataclasses.replace(status, state="DEPLOY_FAILED", replicas={}, target=1)
        return status


def test_roll_of_a_fleet_whose_directory_failed_starts_it_alone(
    rolled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = WithoutDirectory()
    one, said = rolled(serve, 0.5)
    monkeypatch.setattr(roll, "fetch_fleet", lambda *_: pytest.fail("nobody answers there"))
    assert roll_fleet(one, SAME) == {"directory": []}
    assert said == ["the Directory did not start: it alone is started anew"]
    assert serve.running["directory"] == ["x2"] and serve.surges == []


@pytest.mark.parametrize("is_other", [False, True])
def test_folder_is_refused_while_the_directory_does_not_run(is_other: bool, rolled: Any) -> None:
    serve = WithoutDirectory()
    one, _ = rolled(serve, 0.5)
    dialogue = OPTIONS["dialogue"] | {"folder": "g"}
    plan = dataclasses.replace(SAME, same=OPTIONS | {"dialogue": dialogue})
    if is_other:
        plan = dataclasses.replace(SAME, others={"dialogue": dialogue})
    with pytest.raises(InputError, match=r"got DEPLOY_FAILED\. Roll without options"):
        roll_fleet(one, plan)
    assert serve.running["directory"] == ["x1"] and serve.surges == []


def test_interrupted_roll_leaves_the_file_as_serve_was_told(rolled: Any, tmp_path: Path) -> None:
    serve = FakeServe(interrupt=True)
    one, said = rolled(serve, 0.5)
    with pytest.raises(KeyboardInterrupt):
        roll_fleet(one, SAME)
    assert read_state(tmp_path / "fleet.json").version_of("dialogue") == serve.versions["dialogue"]
    assert said == ["dialogue: Serve goes on with it; `status` shows how far it is"]


def test_roll_with_a_token_that_the_fleet_does_not_know_is_refused_before_it_starts(
    rolled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MachineError("a Directory must answer at a, got UNAUTHENTICATED.")

    serve = FakeServe()
    one, _ = rolled(serve, 0.5)
    monkeypatch.setattr(roll, "fetch_fleet", refuse)
    with pytest.raises(InputError, match=r"certificates and the token .* UNAUTHENTICATED\. .* up"):
        roll_fleet(one, SAME)
    assert serve.surges == []
    assert read_state(tmp_path / "fleet.json") == STATE


def test_roll_warns_of_certificates_that_running_students_may_not_trust(
    rolled: Any, tmp_path: Path
) -> None:
    make_certificates(tmp_path / "tls", days=1)
    serve = FakeServe()
    one, said = rolled(serve, 0.5)
    security = SecurityFiles(tls=str(tmp_path / "tls"))
    one.state = dataclasses.replace(STATE, security=security, authorities=["another CA"])
    roll_fleet(one, SAME)
    assert said[0].startswith("warning: ") and "start the students again" in said[0]
    after = read_state(tmp_path / "fleet.json").authorities
    assert after == authorities(security) != []
