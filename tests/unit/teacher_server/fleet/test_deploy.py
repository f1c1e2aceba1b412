"""What counts when the commands wait for a fleet."""

from __future__ import annotations

from collections import Counter

import pytest

from protos.teacher_pb2 import Endpoint
from teacher_server.fleet import deploy
from teacher_server.fleet.local_cluster import FleetState
from teacher_server.fleet.scaling import ReplicaRange, ScalingTarget
from teacher_server.fleet.status import KindStatus
from trainer.common.errors import MachineError


def test_teachers_of_other_makes_do_not_count_among_the_replicas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = [
        Endpoint(kind="dialogue", address="127.0.0.1:1", replica_id="ours"),
        Endpoint(kind="dialogue", address="127.0.0.1:2", replica_id="silent"),
        Endpoint(kind="dialogue", address="127.0.0.1:3", replica_id="go-1"),
        Endpoint(kind="chess", address="127.0.0.1:4", replica_id="go-2"),
    ]
    monkeypatch.setattr(deploy, "fetch_fleet", lambda *_: listed)
    monkeypatch.setattr(deploy, "is_serving", lambda address, *_: address != "127.0.0.1:2")
    status = KindStatus(
        state="RUNNING",
        message="",
        target=2,
        replica_range=ReplicaRange.of(2),
        scaling=None,
        is_autoscaled=False,
        replicas={"ours": ("RUNNING", 1), "silent": ("RUNNING", 2)},
    )
    state = FleetState(ray_address="", directory="127.0.0.1:5", options={"dialogue": {}})
    answering = deploy._num_answering(state, {"dialogue": status})
    assert answering == Counter({"dialogue": 1})


def test_serve_that_does_not_take_in_a_group_is_waited_for_up_to_a_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deploy, "TAKE_IN_S", 0.0)
    monkeypatch.setattr(deploy, "POLL_S", 0.0)
    monkeypatch.setattr(deploy, "fleet_status", dict)
    monkeypatch.setattr(deploy, "_teacher_app", lambda *_, **__: None)
    monkeypatch.setattr(deploy, "_run", lambda *_: None)
    state = FleetState(ray_address="", directory="127.0.0.1:5", options={"dialogue": {}})
    told = r"must take in the dialogue within 0 s"
    with pytest.raises(MachineError, match=told):
        deploy.start_beside(state, "dialogue", ReplicaRange.of(1), ScalingTarget(), first=1)
    with pytest.raises(MachineError, match=told):
        deploy.scale(state, {"dialogue": ReplicaRange.of(0)}, ScalingTarget())
