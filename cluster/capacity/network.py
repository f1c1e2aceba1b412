"""What the ranks of a student exchange at each step, by ZeRO stage, and how long that takes.

n ranks, each with one n-th of what is sharded. A ring moves (n - 1) / n of the bytes over every
rank's link in each collective: an all-reduce is two of them, reduce-scatter and all-gather.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Stage 0 all-reduces gradients. Stages 1 and 2 reduce-scatter them and all-gather the weights that
# were stepped. Stage 3 all-gathers weights before forward and before backward.
COLLECTIVES = {0: 2, 1: 2, 2: 2, 3: 3}
# Elements of a bucket: trainer/configs/zero*.json.
BUCKETS = {0: 500_000_000, 1: 50_000_000, 2: 50_000_000, 3: 20_000_000}


@dataclass(frozen=True, kw_only=True)
class Link:
    """The network of one host."""

    gbit: float
    """10^9 bits a second each way."""
    latency_s: float = 20e-6
    """From one host to another; a usual figure within one placement group, not measured."""
    host_bytes_per_s: float = math.inf
    """What the host's CPU passes on in a ring; a NIC that reads memory itself needs no CPU."""

    @property
    def bytes_per_s(self) -> float:
        """What arrives of one sender: the link's rate, or its host's."""
        return min(self.gbit * 1e9 / 8, self.host_bytes_per_s)


def exchanged_bytes(stage: int, gradient_bytes: float, ranks: int) -> float:
    """Bytes that each rank sends, and receives, at a step."""
    return COLLECTIVES[stage] * gradient_bytes * (ranks - 1) / ranks


def exchange_s(
    stage: int,
    gradient_bytes: float,
    link: Link,
    *,
    hosts: int,
    ranks: int,
    num_elements: int,
) -> float:
    """Seconds of a step's collectives, none of them beside the computation.

    Args:
        stage: ZeRO's.
        gradient_bytes: of all gradients, and so of all weights in the same precision.
        link: of the slowest host. A ring leaves a host once, whatever ranks it has.
        hosts: of the student; on one nothing leaves it, and what its ranks exchange counts nothing.
        ranks: of all hosts.
        num_elements: of the gradients; each bucket pays the ring's latency.
    """
    if hosts == 1:
        return 0.0
    buckets = max(1, math.ceil(num_elements / BUCKETS[stage]))
    hops = COLLECTIVES[stage] * buckets * (hosts - 1)
    return exchanged_bytes(stage, gradient_bytes, ranks) / link.bytes_per_s + hops * link.latency_s
