"""A Serve of a few lines for `roll`: it replaces and starts replicas as it is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from teacher_server.fleet import fleet_change, roll, roll_other, roll_room, roll_same
from teacher_server.fleet.fleet_change import FleetChange
from teacher_server.fleet.local_cluster import FleetState, write_state
from teacher_server.fleet.room import Room
from teacher_server.fleet.scaling import ReplicaRange, ScalingTarget
from teacher_server.fleet.status import KindStatus

FAKED = {
    *("replace", "replace_directory", "fleet_status"),
    *("scale", "start_beside", "remove_group"),
}


class FakeServe:
    """Replaces one replica of the version before by one of the target's at each look."""

    def __init__(self, bad_group: str = "", interrupt: bool = False) -> None:
        self.versions = {"dialogue": "1", "recommendation": "1", "directory": "1"}
        self.running = {"dialogue": ["d1", "d2"], "recommendation": ["r1"], "directory": ["x1"]}
        self.ranges = {group: ReplicaRange.of(len(ids)) for group, ids in self.running.items()}
        self.of = {it: "1" for ids in self.running.values() for it in ids}
        self.surges: list[tuple[str, bool]] = []
        self.retiring: set[str] = set()
        self.drains: dict[str, float] = {}
        self.scaled: list[str] = []
        self._to_start: dict[str, int] = {}
        self._bad_group, self._interrupt = bad_group, interrupt
        self._count = 0

    def replace(
        self,
        state: FleetState,
        group: str,
        wanted: ReplicaRange,
        scaling: ScalingTarget,
        *,
        has_surge: bool,
    ) -> None:
        if group in state.retiring and group not in self.retiring:
            self.ranges[group] = ReplicaRange(min=0, max=wanted.max)
        assert wanted.max == self.ranges[group].max
        self.retiring = self.retiring - {group} | ({group} & state.retiring.keys())
        self.drains |= {group: state.retiring[group]} if group in state.retiring else {}
        self.versions[group] = state.version_of(group)
        self.surges.append((group, has_surge))

    def replace_directory(self, state: FleetState) -> None:
        self.versions["directory"] += "+"

    def scale(
        self, state: FleetState, ranges: dict[str, ReplicaRange], scaling: ScalingTarget
    ) -> None:
        for group, wanted in ranges.items():
            self.scaled.append(f"{group} {wanted}")
            self._start(group, max(0, wanted.min - len(self.running[group])))

    def start_beside(
        self,
        state: FleetState,
        group: str,
        wanted: ReplicaRange,
        scaling: ScalingTarget,
        *,
        first: int,
    ) -> None:
        self.retiring.discard(group)
        self.versions[group] = state.version_of(group)
        self.ranges[group] = wanted
        self._to_start[group] = first - len(self.running.setdefault(group, []))

    def remove_group(self, group: str) -> None:
        self.running.pop(group, None)

    def fleet_status(self) -> dict[str, KindStatus]:
        found = {}
        for group in self.running:
            found[group] = self._look(group)
        return found

    def _look(self, group: str) -> KindStatus:
        if self._to_start.get(group) and group != self._bad_group:
            self._start(group, 1)
            self._to_start[group] -= 1
        failed = self._replace_one(group) or bool(self._to_start.get(group))
        failed &= group == self._bad_group
        ids = self.running[group]
        return KindStatus(
            state="DEPLOY_FAILED" if failed else "RUNNING",
            message="The deployment failed to start. Error:\nInputError: no" if failed else "",
            target=len(ids) + self._to_start.get(group, 0),
            replica_range=self.ranges[group],
            scaling=None,
            is_autoscaled=True,
            replicas=dict.fromkeys(ids, ("RUNNING", 7)),
        )

    def _replace_one(self, group: str) -> bool:
        """Replace a replica of another version; whether there is one, and it cannot be."""
        ids, version = self.running[group], self.versions[group]
        old = [it for it in ids if self.of[it] != version]
        if old and self._interrupt:
            raise KeyboardInterrupt
        # A bad version gets one replica to run, and then none.
        failed = group == self._bad_group and version != "1" and len(old) < len(ids)
        if old and not failed:
            ids.remove(old[0])
            self._start(group, 1)
        return failed

    def _start(self, group: str, count: int) -> None:
        for _ in range(count):
            self._count += 1
            self.of[f"n{self._count}"] = self.versions[group]
            self.running[group].append(f"n{self._count}")


def changed_fleet(
    serve: FakeServe,
    path: Path,
    state: FleetState,
    monkeypatch: pytest.MonkeyPatch,
    *,
    free_cpus: float,
) -> tuple[FleetChange, list[str]]:
    """A fleet that rolls on such a Serve with one node, and what is said meanwhile."""
    for module in (fleet_change, roll, roll_other, roll_same):
        for name in vars(module).keys() & FAKED:
            monkeypatch.setattr(module, name, getattr(serve, name))
    monkeypatch.setattr(roll, "fetch_fleet", lambda *_: [])
    for module in (roll, roll_other):
        monkeypatch.setattr(module, "wait_until_ready", lambda *_, **__: None)
    monkeypatch.setattr(roll_room, "free_resources", lambda: [{"CPU": free_cpus}])
    monkeypatch.setattr(roll_room, "cluster_room", lambda: Room(num_cpus=4, num_gpus=0))
    monkeypatch.setattr(fleet_change, "POLL_S", 0.0)
    write_state(path, state)
    said: list[str] = []
    return FleetChange(path, state, timeout_s=10.0, progress=said.append), said
