"""Whether the cluster has room for what a roll starts beside the replicas that run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from teacher_server.fleet.local_cluster import FleetState
from teacher_server.fleet.ray_cluster import cluster_room, free_resources
from teacher_server.fleet.room import (
    fits_one_more,
    num_devices,
    weights_fit,
    weights_in,
    without_place,
)
from teacher_server.fleet.status import KindStatus
from trainer.common.errors import InputError
from trainer.common.machine import memory_bytes

# Of free nodes in an error.
MOST_NODES = 4


def has_room(state: FleetState, group: str, statuses: Mapping[str, KindStatus]) -> bool:
    """Whether one more replica of a group can run beside those that do."""
    counts = _counts(state, statuses) + Counter([group])
    needs = {it: state.needs[it] for it in counts}
    if not fits_one_more(needs[group], free_resources(), cluster_room(), needs, counts):
        return False
    return bool(needs[group].num_gpus) or _fits_memory(state, counts)


def check_room_beside(
    state: FleetState, more: Mapping[str, int], statuses: Mapping[str, KindStatus]
) -> None:
    """Raise InputError unless further replicas can run beside all that do.

    Args:
        state: the fleet as it shall be.
        more: group -> number of further replicas.
        statuses: what runs.
    """
    needed = [state.needs[group] for group, count in more.items() for _ in range(count)]
    if not needed:
        return
    free = free_resources()
    left_out = without_place(needed, free)
    counts = _counts(state, statuses) + Counter(more)
    shares = {group: state.needs[group].num_gpus for group in counts}
    devices = num_devices(shares, counts)
    rule = (
        "the replicas of another teacher must fit beside those that serve its students until then"
    )
    remedy = "Scale down, or add nodes, then roll again."
    if left_out:
        most = left_out[0]
        raise InputError(
            f"{rule}, got no place for {len(left_out)} of {len(needed)}: one takes "
            f"{most.num_cpus:g} CPUs and {most.num_gpus:g} GPUs of one node, and free are "
            f"{_free_text(free)}. {remedy}"
        )
    if devices > cluster_room().num_gpus:
        raise InputError(
            f"{rule}, got {devices} GPUs for all instead of the {cluster_room().num_gpus} that the "
            f"cluster has. {remedy}"
        )
    if not _fits_memory(state, counts):
        raise InputError(
            f"{rule}, got weights that exceed this machine's memory together. Scale down, then "
            "roll again."
        )


def _counts(state: FleetState, statuses: Mapping[str, KindStatus]) -> Counter[str]:
    """Replicas that there are of each group."""
    return Counter(
        {group: len(statuses[group].replicas) for group in state.options if group in statuses}
    )


def _fits_memory(state: FleetState, counts: Mapping[str, int]) -> bool:
    """Whether weights on CPUs fit this machine's memory; other clusters' nodes are not known."""
    if not state.keeper_pid:
        return True
    on_cpu = {group: state.options[group] for group in counts if not state.needs[group].num_gpus}
    folders = {group: Path(options["folder"]) for group, options in on_cpu.items()}
    dtypes = {group: options["dtype"] for group, options in on_cpu.items()}
    return weights_fit(weights_in(folders, dtypes), counts, memory_bytes())


def _free_text(nodes: list[Mapping[str, float]]) -> str:
    told = sorted(((it.get("GPU", 0.0), it.get("CPU", 0.0)) for it in nodes), reverse=True)
    texts = [f"{cpus:g} CPUs and {gpus:g} GPUs" for gpus, cpus in told[:MOST_NODES]]
    more = len(told) - MOST_NODES
    return "; ".join(texts + ([f"less on {more} more nodes"] if more > 0 else [])) or "none"
