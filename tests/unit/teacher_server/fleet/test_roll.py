"""`roll` on a fleet whose Serve is a few lines: what runs, what the file says, what is said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayError

from teacher_server.fleet import roll, roll_plan
from teacher_server.fleet.certificates import make_certificates
from teacher_server.fleet.local_cluster import FleetState, read_state, write_state
from teacher_server.fleet.options import parse
from teacher_server.fleet.pins import pin_of
from teacher_server.fleet.roll import Roll
from teacher_server.fleet.roll_plan import options_anew
from teacher_server.fleet.room import Room
from teacher_server.fleet.scaling import ReplicaRange, ScalingTarget
from teacher_server.fleet.status import KindStatus
from teacher_server.fleet.trust import authorities
from tests.support import tiny_teachers
from trainer.common.errors import InputError, MachineError
from trainer.models.frozen import read_card
from trainer.security.credentials import SecurityFiles

KINDS = ("dialogue", "recommendation")
OPTIONS = {kind: {"folder": "f", "num_cpus": 0.5, "num_gpus": 0.0} for kind in KINDS}
STATE = FleetState(ray_address="a", directory="127.0.0.1:5", options=OPTIONS)


class FakeServe:
    """Replaces one replica of the version before by one of the target's at each look."""

    def __init__(self, bad_kind: str = "", interrupt: bool = False) -> None:
        self.versions = {"dialogue": "1", "recommendation": "1", "directory": "1"}
        self.running = {"dialogue": ["d1", "d2"], "recommendation": ["r1"], "directory": ["x1"]}
        self.of = {it: "1" for ids in self.running.values() for it in ids}
        self.surges: list[tuple[str, bool]] = []
        self._bad_kind, self._interrupt = bad_kind, interrupt
        self._count = 0

    def replace(
        self,
        state: FleetState,
        kind: str,
        wanted: ReplicaRange,
        scaling: ScalingTarget,
        *,
        has_surge: bool,
    ) -> None:
        assert wanted == ReplicaRange.of(len(self.running[kind]))
        self.versions[kind] = state.version_of(kind)
        self.surges.append((kind, has_surge))

    def replace_directory(self, state: FleetState) -> None:
        self.versions["directory"] = "anew"

    def fleet_status(self) -> dict[str, KindStatus]:
        found = {}
        for kind in self.running:
            found[kind] = self._look(kind)
        return found

    def _look(self, kind: str) -> KindStatus:
        old = [it for it in self.running[kind] if self.of[it] != self.versions[kind]]
        is_bad = kind == self._bad_kind and self.versions[kind] != "1"
        if old and self._interrupt:
            raise KeyboardInterrupt
        # A bad version gets one replica to run, and then none.
        failed = is_bad and len(old) < len(self.running[kind])
        if old and not failed:
            self._count += 1
            new = f"n{self._count}"
            self.of[new] = self.versions[kind]
            self.running[kind].remove(old[0])
            self.running[kind].append(new)
        return KindStatus(
            state="DEPLOY_FAILED" if failed else "RUNNING",
            message="The deployment failed to start. Error:\nInputError: no" if failed else "",
            target=len(self.running[kind]),
            replica_range=ReplicaRange.of(len(self.running[kind])),
            scaling=None,
            is_autoscaled=True,
            replicas=dict.fromkeys(self.running[kind], ("RUNNING", 7)),
        )


@pytest.fixture
def rolled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[FakeServe, float], tuple[Roll, list[str]]]:
    def make(serve: FakeServe, free_cpus: float) -> tuple[Roll, list[str]]:
        for name in ("replace", "replace_directory", "fleet_status"):
            monkeypatch.setattr(roll, name, getattr(serve, name))
        monkeypatch.setattr(roll, "fetch_fleet", lambda *_: [])
        monkeypatch.setattr(roll, "wait_until_ready", lambda *_, **__: None)
        monkeypatch.setattr(roll_plan, "free_resources", lambda: [{"CPU": free_cpus}])
        monkeypatch.setattr(roll_plan, "cluster_room", lambda: Room(num_cpus=4, num_gpus=0))
        monkeypatch.setattr(roll, "POLL_S", 0.0)
        write_state(tmp_path / "fleet.json", STATE)
        said: list[str] = []
        return Roll(tmp_path / "fleet.json", STATE, timeout_s=60.0, progress=said.append), said

    return make


def test_roll_replaces_every_replica_and_the_directory_and_records_new_versions(
    rolled: Any, tmp_path: Path
) -> None:
    serve = FakeServe()
    one, said = rolled(serve, 0.5)
    replaced = one.run({kind: OPTIONS[kind] | {"folder": "g"} for kind in KINDS})
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
    one.run(OPTIONS)
    assert serve.surges == [("dialogue", False), ("recommendation", False)]
    waits = [line for line in said if "students wait" in line]
    assert waits == ["recommendation: no room for a second replica, so students wait for a start"]


def test_roll_whose_replicas_do_not_start_is_taken_back(rolled: Any, tmp_path: Path) -> None:
    serve = FakeServe(bad_kind="dialogue")
    one, _ = rolled(serve, 0.5)
    with pytest.raises(MachineError, match=r"got: InputError: no\. .*before.* already: none"):
        one.run(OPTIONS)
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
        one.run(OPTIONS)
    assert one.state == read_state(tmp_path / "fleet.json") == STATE
    assert serve.running["dialogue"] == ["d1", "d2"]


def test_failure_of_the_second_kind_names_the_first_which_stays_replaced(
    rolled: Any, tmp_path: Path
) -> None:
    serve = FakeServe(bad_kind="recommendation")
    serve.running["recommendation"].append("r2")
    serve.of["r2"] = "1"
    one, _ = rolled(serve, 0.5)
    with pytest.raises(MachineError, match=r"recommendation replicas are .* already: dialogue\."):
        one.run(OPTIONS)
    state = read_state(tmp_path / "fleet.json")
    assert state.version_of("recommendation") == "1" != state.version_of("dialogue")


class WithoutDirectory(FakeServe):
    """A fleet whose Directory failed in the roll before."""

    def replace_directory(self, state: FleetState) -> None:
        super().replace_directory(state)
        self.of["x2"] = "anew"
        self.running["directory"] = ["x2"]

    def _look(self, kind: str) -> KindStatus:
        status = super()._look(kind)
        if kind == "directory" and self.versions[kind] != "anew":
            return dataclasses.replace(status, state="DEPLOY_FAILED", replicas={}, target=1)
        return status


def test_roll_of_a_fleet_whose_directory_failed_starts_it_alone(
    rolled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = WithoutDirectory()
    one, said = rolled(serve, 0.5)
    monkeypatch.setattr(roll, "fetch_fleet", lambda *_: pytest.fail("nobody answers there"))
    assert one.run(OPTIONS) == {"directory": []}
    assert said == ["the Directory did not start: it alone is started anew"]
    assert serve.running["directory"] == ["x2"] and serve.surges == []


def test_interrupted_roll_leaves_the_file_as_serve_was_told(rolled: Any, tmp_path: Path) -> None:
    serve = FakeServe(interrupt=True)
    one, said = rolled(serve, 0.5)
    with pytest.raises(KeyboardInterrupt):
        one.run(OPTIONS)
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
        one.run(OPTIONS)
    assert serve.surges == []
    assert read_state(tmp_path / "fleet.json") == STATE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "dialogue"
    tiny_teachers.write_dialogue_teacher(folder, tiny_teachers.tiny_vocabulary())
    return folder


def test_roll_takes_the_same_teacher_from_anywhere_and_no_other(
    folder: Path, tmp_path: Path
) -> None:
    pin = dataclasses.asdict(pin_of(read_card(folder, "dialogue"), folder, "float32"))
    options = {"dialogue": {"folder": "/gone", "dtype": "float32", "pin": pin}}
    state = FleetState(ray_address="a", directory="b", options=options)
    same = options_anew(parse(["roll", "--dialogue", str(folder)]), state)
    assert same == {"dialogue": options["dialogue"] | {"folder": str(folder)}}
    with pytest.raises(OSError, match="/gone must be a frozen dialogue model"):
        options_anew(parse(["roll"]), state)
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (other / path.name).write_bytes(path.read_bytes())
    card = json.loads((other / "teacher.json").read_text())
    (other / "teacher.json").write_text(json.dumps(card | {"temperature": 2.0}))
    with pytest.raises(InputError, match=r"temperature 2\.0 instead of 1\.0"):
        options_anew(parse(["roll", "--dialogue", str(other)]), state)


def test_roll_with_certificates_of_no_use_is_refused_before_anything_is_replaced(
    folder: Path, tmp_path: Path
) -> None:
    state = FleetState(
        ray_address="a",
        directory="b",
        security=dataclasses.replace(STATE.security, tls=str(tmp_path)),
    )
    with pytest.raises(InputError, match=r"ca\.pem must be a file that we may read"):
        options_anew(parse(["roll"]), state)


def test_roll_warns_of_certificates_that_running_students_may_not_trust(
    rolled: Any, tmp_path: Path
) -> None:
    make_certificates(tmp_path / "tls", days=1)
    serve = FakeServe()
    one, said = rolled(serve, 0.5)
    security = SecurityFiles(tls=str(tmp_path / "tls"))
    one.state = dataclasses.replace(STATE, security=security, authorities=["another CA"])
    one.run(OPTIONS)
    assert said[0].startswith("warning: ") and "start the students again" in said[0]
    after = read_state(tmp_path / "fleet.json").authorities
    assert after == authorities(security) != []
