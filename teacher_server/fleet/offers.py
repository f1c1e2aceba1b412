"""What nodes of a Ray cluster have for replicas: those that run, and those that may come.

`ray up` leaves its file on the head node, with the types of nodes that the autoscaler may start. A
machine of the user's own that is listed there and has not joined yet may have anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from teacher_server.fleet.room import ReplicaNeed
from trainer.common.errors import InputError

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
# Of all teacher nodes; those for one kind alone have a resource of its name instead.
TEACHER = "teacher"
# A node has room for any number of replicas by this resource: CPUs and GPUs bound them.
SHARE = 0.001
SHOWN = ("CPU", "GPU", "memory")


@dataclass(frozen=True, kw_only=True)
class Offers:
    """What nodes of the cluster have when nothing has taken any of it, by Ray's names."""

    running: Sequence[Mapping[str, float]]
    startable: Sequence[Mapping[str, float]] = ()
    """Of the types of nodes that the autoscaler may start."""
    num_awaited: int = 0
    """Machines that are listed and have not joined."""

    @property
    def nodes(self) -> Sequence[Mapping[str, float]]:
        """All that are known."""
        return (*self.running, *self.startable)

    def resources_for(self, kind: str) -> dict[str, float]:
        """What a replica asks of a node besides CPUs and GPUs, so that it comes to one for it."""
        for name in (kind, TEACHER):
            if any(node.get(name) for node in self.nodes):
                return {name: SHARE}
        return {}

    def gpus_for(self, resources: Mapping[str, float]) -> float:
        """GPUs of a replica that is given none: 1, if a node with these resources has any."""
        with_them = [node for node in self.nodes if all(node.get(it) for it in resources)]
        return 1.0 if any(node.get("GPU", 0) >= 1 for node in with_them) else 0.0


def read_offers(running: Sequence[Mapping[str, float]], path: Path = BOOTSTRAP) -> Offers:
    """The offers of nodes that run, and of those in the file that `ray up` left here, if it did."""
    path = path.expanduser()
    content: dict[str, Any] = yaml.safe_load(path.read_text()) if path.is_file() else {}
    types = content.get("available_node_types") or {}
    provider = content.get("provider") or {}
    if provider.get("type") == "local":
        # Its one type has no resources: each machine has its own, which its raylet tells.
        listed = len(provider.get("worker_ips") or ())
        return Offers(running=running, num_awaited=max(0, listed + 1 - len(running)))
    workers = [it for name, it in types.items() if name != content.get("head_node_type")]
    startable = [it.get("resources") or {} for it in workers if it.get("max_workers", 0)]
    if provider.get("type") != "external":
        return Offers(running=running, startable=startable)
    # Our provider of machines that one has: of their CPUs and GPUs the file does not tell either.
    listed = sum(it["max_workers"] for it in workers)
    return Offers(
        running=running, startable=startable, num_awaited=max(0, listed + 1 - len(running))
    )


def check_offers(needs: Mapping[str, ReplicaNeed], offers: Offers) -> list[str]:
    """Raise InputError for a kind whose replicas fit no node, now or later.

    Returns:
        A sentence for each kind that fits none now, and may fit a machine that is awaited.
    """
    doubts: list[str] = []
    for kind, need in needs.items():
        if any(need.fits(node) for node in offers.nodes):
            continue
        wanted = _text({"CPU": need.num_cpus, "GPU": need.num_gpus, **need.resources})
        if not offers.num_awaited:
            raise InputError(
                f"a {kind} replica must fit one node of the cluster, got a need of {wanted}, and "
                f"nodes with {_nodes_text(offers.nodes)}. Ask for less (up --num-gpus, "
                "--num-cpus), or add such a node first."
            )
        doubts.append(
            f"no node has room for a {kind} replica ({wanted}): {offers.num_awaited} listed "
            "machines have not joined yet, and may have"
        )
    return doubts


def _nodes_text(nodes: Iterable[Mapping[str, float]]) -> str:
    return "; ".join(sorted({_text(node) for node in nodes}, reverse=True)) or "nothing"


def _text(resources: Mapping[str, float]) -> str:
    """CPUs and GPUs, and what somebody has named; Ray adds resources of its own to each node."""
    named = [it for it in resources if ":" not in it and "_" not in it and it not in SHOWN]
    shown = [*SHOWN[:2], *sorted(named)]
    return ", ".join(f"{name} {resources.get(name, 0.0):g}" for name in shown)
