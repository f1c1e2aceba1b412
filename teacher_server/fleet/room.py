"""Whether the replicas of a fleet fit a local Ray cluster, which cannot grow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from teacher_server.fleet.scaling import ReplicaRange
from trainer.common.errors import InputError
from trainer.kinds.names import FLOAT32
from trainer.models.frozen import WEIGHTS_NAME

# Ray counts in ten thousandths.
RAY_PARTS = 10_000
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Room:
    """What Ray may give to replicas."""

    num_cpus: float
    num_gpus: int


@dataclass(frozen=True, kw_only=True)
class ReplicaNeed:
    """What Ray sets aside for one replica."""

    num_cpus: float
    num_gpus: float
    """Less than 1: it shares a device."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Others that only some nodes have, by Ray's names."""

    def fits(self, node: Mapping[str, float]) -> bool:
        """Whether a node with so much of each resource has room for it."""
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}
        return all(_in_parts(node.get(it, 0.0)) >= _in_parts(wanted[it]) for it in wanted)


def gpu_share(num_replicas: int, num_gpus: int) -> float:
    """GPUs of each replica where none are asked for: one, or an equal part of one; 0 without."""
    if not num_gpus:
        return 0.0
    together = max(1, math.ceil(num_replicas / num_gpus))
    return max(1, RAY_PARTS // together) / RAY_PARTS


def check_room(
    room: Room, needs: Mapping[str, ReplicaNeed], ranges: Mapping[str, ReplicaRange]
) -> None:
    """Raise InputError unless the most replicas of each kind fit."""
    most = {kind: wanted.max for kind, wanted in ranges.items()}
    cpus = sum(needs[kind].num_cpus * count for kind, count in most.items())
    if cpus > room.num_cpus:
        raise InputError(
            f"the replicas must fit the local cluster's {room.num_cpus:g} CPUs, got {cpus:g}. "
            "Start it with more (up --cluster-cpus) or with less for each replica (--num-cpus)."
        )
    gpus = num_devices({kind: needs[kind].num_gpus for kind in most}, most)
    if gpus > room.num_gpus:
        raise InputError(
            f"the replicas must fit this machine's {room.num_gpus} GPUs, got {gpus}. "
            + (
                "Let replicas share one (up --num-gpus .5), give those of a kind none (up "
                "--num-gpus recommendation=0), or start fewer."
                if room.num_gpus
                else "Leave --num-gpus out to serve on CPUs."
            )
        )


def check_memory(
    weights: Mapping[str, int], ranges: Mapping[str, ReplicaRange], memory: int
) -> None:
    """Raise InputError if the weights of the most replicas exceed this machine's memory.

    Args:
        weights: bytes of one replica's, for each kind that lies in the machine's memory.
        ranges: of each kind.
        memory: bytes.
    """
    most = {kind: wanted.max for kind, wanted in ranges.items()}
    if not weights_fit(weights, most, memory):
        need = sum(size * most[kind] for kind, size in weights.items())
        raise InputError(
            f"the replicas must fit this machine's {memory / GIB:,.1f} GiB of memory, got weights "
            f"of {need / GIB:,.1f} GiB. Start fewer."
        )


def weights_fit(weights: Mapping[str, int], counts: Mapping[str, int], memory: int) -> bool:
    """Whether the weights of so many replicas of each kind are at most the memory, in bytes."""
    return sum(size * counts[kind] for kind, size in weights.items()) <= memory


def fits_one_more(
    need: ReplicaNeed,
    nodes: Sequence[Mapping[str, float]],
    room: Room,
    needs: Mapping[str, ReplicaNeed],
    counts: Mapping[str, int],
) -> bool:
    """Whether Ray can place one more replica beside those that run.

    Args:
        need: of the further one.
        nodes: what Ray has left on each node, by its names: CPU, GPU.
        room: what the cluster has.
        needs: of a replica of each kind.
        counts: replicas of each kind, the further one among them: parts of a GPU that are left on
            several devices do not make a whole one.
    """
    if without_place([need], nodes):
        return False
    shares = {kind: needs[kind].num_gpus for kind in counts}
    return not need.num_gpus or num_devices(shares, counts) <= room.num_gpus


def without_place(
    needed: Iterable[ReplicaNeed], nodes: Sequence[Mapping[str, float]]
) -> list[ReplicaNeed]:
    """Which further replicas find no place, by first fit: a replica lies whole on one node.

    Args:
        needed: the further ones; the largest is placed first.
        nodes: what Ray has left on each node, by its names: CPU, GPU.
    """
    free = [dict(it) for it in nodes]
    left_out: list[ReplicaNeed] = []
    for need in sorted(needed, key=lambda it: (it.num_gpus, it.num_cpus), reverse=True):
        node = next((it for it in free if need.fits(it)), None)
        if node is None:
            left_out.append(need)
        else:
            node["CPU"] = node.get("CPU", 0.0) - need.num_cpus
            node["GPU"] = node.get("GPU", 0.0) - need.num_gpus
    return left_out


def weights_in(folders: Mapping[str, Path], dtypes: Mapping[str, str]) -> dict[str, int]:
    """Bytes of a replica's weights; a kind of a plugin may keep them elsewhere.

    Args:
        folders: of each kind.
        dtypes: in which each kind computes; files are in float32.
    """
    paths = {kind: folder / WEIGHTS_NAME for kind, folder in folders.items()}
    return {
        kind: path.stat().st_size // (1 if dtypes[kind] == FLOAT32 else 2)
        for kind, path in paths.items()
        if path.is_file()
    }


def num_devices(shares: Mapping[str, float], counts: Mapping[str, int]) -> int:
    """GPUs that replicas take up: of a device one may have a part, and no part lies on two."""
    total: Counter[float] = Counter()
    for kind, count in counts.items():
        total[shares[kind]] += count
    return sum(
        count * math.ceil(share) if share >= 1 else math.ceil(count / _parts(share))
        for share, count in total.items()
        if share
    )


def _in_parts(amount: float) -> int:
    """As Ray counts: sums of .1 are exact."""
    return round(amount * RAY_PARTS)


def _parts(share: float) -> int:
    return RAY_PARTS // max(1, round(share * RAY_PARTS))
