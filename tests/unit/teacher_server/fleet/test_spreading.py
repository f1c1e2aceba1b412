"""Replicas of a kind go to the node that has the fewest of them, in Serve's own scheduler."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.deployment_scheduler import (
    DeploymentScheduler,
    ReplicaSchedulingRequest,
    SpreadDeploymentSchedulingPolicy,
)

from teacher_server.fleet.ray_private import place_replicas_by
from teacher_server.fleet.spreading import emptiest_node

ROOM = {"CPU": 4.0}
NEED = {"CPU": 0.5}
# As Ray's ids of nodes are.
N1, N2 = "01" * 28, "02" * 28


@pytest.mark.parametrize(
    ("free", "placed", "others", "expected"),
    [
        ({"a": ROOM, "b": ROOM}, [], {}, "a"),
        ({"a": ROOM, "b": ROOM}, ["a"], {}, "b"),
        # Another kind's replicas count only where the kind's own are as many.
        ({"a": ROOM, "b": ROOM}, ["a"], {"b": 5}, "b"),
        ({"a": ROOM, "b": ROOM}, [], {"a": 1}, "b"),
        # Of equals, the one whose newest replica is the oldest.
        ({"a": ROOM, "b": ROOM}, ["b", "a"], {}, "b"),
        ({"a": ROOM, "b": {"CPU": 0.25}}, ["a", "a"], {}, "a"),
        ({"a": {"CPU": 0.25}, "b": {}}, [], {}, None),
    ],
)
def test_emptiest_node(
    free: dict[str, dict[str, float]],
    placed: list[str],
    others: dict[str, int],
    expected: str | None,
) -> None:
    assert emptiest_node(NEED, free, placed, Counter(others)) == expected


class FakeCluster:
    """Two nodes with room, as Serve's controller sees them."""

    def get_total_resources_per_node(self) -> dict[str, dict[str, float]]:
        return {N1: dict(ROOM), N2: dict(ROOM)}

    get_available_resources_per_node = get_total_resources_per_node

    def get_active_node_ids(self) -> list[str]:
        return [N1, N2]


class FakeActor:
    """Notes how each replica is to be scheduled."""

    def __init__(self) -> None:
        self.strategies: list[Any] = []

    def options(self, *, scheduling_strategy: object, **_: object) -> FakeActor:
        self.strategies.append(scheduling_strategy)
        return self

    def remote(self, *_: object) -> None:
        return None


def test_serve_places_our_replicas_by_kind_and_those_of_others_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "_schedule_with_spread_strategy"
    monkeypatch.setattr(DeploymentScheduler, name, getattr(DeploymentScheduler, name))
    place_replicas_by(emptiest_node, prefix="conkd-")
    scheduler = DeploymentScheduler(FakeCluster(), "head", lambda _: None)  # pyright: ignore
    actor = FakeActor()

    def upscale(app: str, *replicas: str) -> None:
        deployment = DeploymentID(name="Teacher", app_name=app)
        requests = [
            ReplicaSchedulingRequest(
                replica_id=ReplicaID(unique_id=it, deployment_id=deployment),
                actor_def=actor,  # pyright: ignore
                actor_resources=NEED,
                actor_options={"name": it},
                actor_init_args=(),
                on_scheduled=lambda *_, **__: None,
            )
            for it in replicas
        ]
        if deployment not in scheduler._deployments:
            scheduler.on_deployment_created(deployment, SpreadDeploymentSchedulingPolicy())
            config = SimpleNamespace(
                resource_dict=NEED,
                ray_actor_options={},
                placement_group_bundles=None,
                placement_group_bundle_label_selector=None,
                placement_group_strategy=None,
                max_replicas_per_node=None,
            )
            scheduler.on_deployment_deployed(deployment, config)  # pyright: ignore
        scheduler.schedule({deployment: requests}, {})

    upscale("conkd-dialogue", "d1")
    upscale("conkd-recommendation", "r1")
    upscale("conkd-dialogue", "d2", "d3", "d4")
    upscale("of-others", "o1")
    nodes = [getattr(it, "node_id", it) for it in actor.strategies]
    assert nodes == [N1, N2, N2, N1, N2, "SPREAD"]
    assert all(it.soft for it in actor.strategies[:-1])
