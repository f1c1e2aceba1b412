"""Which replicas of a teacher a rank dials: rendezvous hashing with bounded loads.

Every pair of a rank and a replica has a weight, a hash of run, rank and replica. The heaviest pairs
are taken first, as long as neither end is full (Thaler and Ravishankar 1998, with the bound of
Mirrokni, Thorup and Zadimoghaddam 2018). Each rank works out the pairs of its whole run from the
fleet that the Directory lists, so ranks agree without a word.

Shapes: R ranks of the run, N replicas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Which rank of which run dials."""

    run: str
    """Alike on all ranks of a run; other runs are spread apart from it."""
    rank: int = 0
    num_ranks: int = 1


def dial_order(caller: Caller, replica_ids: Iterable[str], size: int) -> list[str]:
    """All replicas, in the order in which a rank dials them; the first `size` are its subset.

    Within a run the subsets are balanced exactly: each replica is in those of floor or ceil of
    `num_ranks` * `size` / N ranks. Across runs they are independent, so numbers of streams add up
    as random ones do. A replica that comes or goes moves a few pairs more than must move: with
    64 ranks, 100 replicas and subsets of 8 about 10 of 512, where 5 must. Replicas beyond the
    subset come in the order of the rank's own weights.

    Args:
        caller: the rank.
        replica_ids: N of them, in any order.
        size: of each subset; where N is smaller all replicas are in it.
    """
    ids = sorted(set(replica_ids))
    if not ids:
        return []
    weights_RN = _weights(caller, ids)
    own_N = weights_RN[caller.rank]
    is_chosen_N = np.ones(len(ids), bool)
    if len(ids) > size:
        is_chosen_N = balanced_pairs(weights_RN, size)[caller.rank]
    order_N = np.lexsort((-own_N, ~is_chosen_N))
    return [ids[index] for index in order_N]


def balanced_pairs(weights_RN: np.ndarray, size: int) -> np.ndarray:
    """Which replicas each rank dials: `size` each, every replica floor or ceil of R * size / N.

    Args:
        weights_RN: float64 [R, N] above 0, all different.
        size: at most N.

    Returns:
        bool [R, N].
    """
    num_ranks, num_replicas = weights_RN.shape
    pairs_RN = np.zeros(weights_RN.shape, bool)
    total = num_ranks * size
    # First the floor for every replica, then the rest: bounded from above alone, some would idle.
    for most in (total // num_replicas, -(-total // num_replicas)):
        _take_heaviest(pairs_RN, weights_RN, size, most)
        _swap_in_stranded(pairs_RN, weights_RN, size, most)
    return pairs_RN


def _take_heaviest(pairs_RN: np.ndarray, weights_RN: np.ndarray, size: int, most: int) -> None:
    """Take pairs, the heaviest first, until no rank below `size` meets a replica below `most`."""
    while True:
        is_free_RN = ~pairs_RN & (pairs_RN.sum(1) < size)[:, None] & (pairs_RN.sum(0) < most)
        if not is_free_RN.any():
            return
        free_RN = np.where(is_free_RN, weights_RN, 0.0)
        # A pair that is the heaviest of both its ends is taken before any other one of them.
        heaviest_RN = (free_RN == free_RN.max(1)[:, None]) & (free_RN == free_RN.max(0))
        pairs_RN |= heaviest_RN & is_free_RN


def _swap_in_stranded(pairs_RN: np.ndarray, weights_RN: np.ndarray, size: int, most: int) -> None:
    """Fill ranks and replicas that have room left, but only with one another whom they have.

    A rank r and a replica n with room are helped by a pair (r', n') with neither r and n', nor r'
    and n: r takes n', and r' takes n for it. There is one, as full ends have more pairs.
    """
    while True:
        ranks, replicas = (np.flatnonzero(pairs_RN.sum(1) < size), pairs_RN.sum(0) < most)
        if not len(ranks) or not replicas.any():
            return
        rank, replica = ranks[0], np.flatnonzero(replicas)[0]
        may_give_RN = pairs_RN & ~pairs_RN[rank] & ~pairs_RN[:, replica][:, None]
        heaviest = np.where(may_give_RN, weights_RN, 0.0).argmax()
        giver, given = np.unravel_index(heaviest, weights_RN.shape)
        pairs_RN[giver, given] = False
        pairs_RN[giver, replica] = pairs_RN[rank, given] = True


def _weights(caller: Caller, ids: list[str]) -> np.ndarray:
    """float64 [R, N] in (0, 1), of all ranks of a run and all replicas."""
    ranks_R = np.array(
        [_digest(f"{caller.run} {rank}") for rank in range(caller.num_ranks)], np.uint64
    )
    replicas_N = np.array([_digest(each) for each in ids], np.uint64)
    # 52 bits and a half, which a float64 holds: all differ, none is 0.
    return ((_mix(ranks_R[:, None] ^ replicas_N) >> np.uint64(12)) + 0.5) * 2.0**-52


def _digest(text: str) -> int:
    # Not hash(): all ranks must have the same.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(bits: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): each bit depends on all others."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
