"""Student nodes of the cluster: which are free, and a placement group over some of them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.machines.ray_private import placement_group_of
from cluster.students.node import Place, StudentNode
from teacher_server.fleet.ray_private import free_by_node

STUDENT = "student"
NODE_ID_LABEL = "ray.io/node-id"
READY_S = 30.0
PLACE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Group:
    """Actors on as many nodes."""

    placement: PlacementGroup
    actors: tuple[Any, ...]
    places: tuple[Place, ...]

    def release(self) -> None:
        """Give the nodes back."""
        for actor in self.actors:
            ray.kill(actor)
        remove_placement_group(self.placement)


def free_nodes(besides: Collection[str] = ()) -> list[str]:
    """Ids of live student nodes that no run has, those that are named left out."""
    free = free_by_node()
    return sorted(
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in besides
        if free.get(node["NodeID"], {}).get(STUDENT, 0) >= 1
    )


def release_all(name: str) -> None:
    """Give back what a lost supervisor of this name held: Ray keeps it for its successor."""
    for group_id, each in placement_group_table().items():
        if each["name"].startswith(f"{name}/") and each["state"] != "REMOVED":
            remove_placement_group(placement_group_of(group_id))


def gather(node_ids: Sequence[str], name: str) -> Group | None:
    """An actor on each of these nodes; None if one of them is gone, or another run has it.

    The nodes are named, because Ray goes on placing at a node that is lost until it knows.
    """
    placement = placement_group(
        [{STUDENT: 1} for _ in node_ids],
        strategy="STRICT_SPREAD",
        name=f"{name}/{secrets.token_hex(4)}",
        bundle_label_selector=[{NODE_ID_LABEL: each} for each in node_ids],
    )
    try:
        ray.get(placement.ready(), timeout=READY_S)
        actors = tuple(_actor(placement, index) for index in range(len(node_ids)))
        places = tuple(ray.get([each.place.remote() for each in actors], timeout=PLACE_S))
    except (GetTimeoutError, RayError):
        remove_placement_group(placement)
        return None
    return Group(placement=placement, actors=actors, places=places)


def _actor(placement: PlacementGroup, index: int) -> Any:
    strategy = PlacementGroupSchedulingStrategy(
        placement_group=placement, placement_group_bundle_index=index
    )
    node: Any = ray.remote(StudentNode)
    return node.options(
        num_cpus=0, resources={STUDENT: 1}, max_concurrency=4, scheduling_strategy=strategy
    ).remote()
