"""Which replicas each rank dials: balanced, stable, and alike wherever it is worked out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from trainer.teacher_client.subset import Caller, balanced_pairs, dial_order

SIZE = 8


def fleet(size: int) -> list[str]:
    return [f"dialogue-{number}" for number in range(size)]


def subsets(ids: list[str], num_ranks: int, run: str = "run-a") -> list[set[str]]:
    callers = [Caller(run=run, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    return [set(dial_order(caller, ids, SIZE)[:SIZE]) for caller in callers]


def loads(chosen: list[set[str]], ids: list[str]) -> list[int]:
    counts = Counter(name for each in chosen for name in each)
    return [counts[name] for name in ids]


def by_hand(weights_RN: np.ndarray, size: int) -> np.ndarray:
    """The slow twin: one pair at a time, the heaviest first, then one swap at a time."""
    num_ranks, num_replicas = weights_RN.shape
    chosen: set[tuple[int, int]] = set()
    pairs = [(rank, replica) for rank in range(num_ranks) for replica in range(num_replicas)]
    pairs.sort(key=lambda pair: -weights_RN[pair])

    def num_of(rank: int) -> int:
        return sum(pair[0] == rank for pair in chosen)

    def load_of(replica: int) -> int:
        return sum(pair[1] == replica for pair in chosen)

    total = num_ranks * size
    for most in (total // num_replicas, -(-total // num_replicas)):
        for rank, replica in pairs:
            if (rank, replica) not in chosen and num_of(rank) < size and load_of(replica) < most:
                chosen.add((rank, replica))
        while True:
            ranks = [rank for rank in range(num_ranks) if num_of(rank) < size]
            replicas = [each for each in range(num_replicas) if load_of(each) < most]
            if not (ranks and replicas):
                break
            giver, given = next(
                pair
                for pair in pairs
                if pair in chosen
                and (ranks[0], pair[1]) not in chosen
                and (pair[0], replicas[0]) not in chosen
            )
            chosen -= {(giver, given)}
            chosen |= {(giver, replicas[0]), (ranks[0], given)}
    return np.array([[(r, n) in chosen for n in range(num_replicas)] for r in range(num_ranks)])


@pytest.mark.parametrize("seed", range(12))
def test_pairs_are_those_of_one_pair_at_a_time(seed: int) -> None:
    random = np.random.default_rng(seed)
    num_ranks, num_replicas = random.integers(1, 9), random.integers(2, 10)
    size = int(random.integers(1, num_replicas))
    weights_RN = 1.0 - random.random((num_ranks, num_replicas))
    np.testing.assert_array_equal(balanced_pairs(weights_RN, size), by_hand(weights_RN, size))


@pytest.mark.parametrize(
    ("num_ranks", "num_replicas"),
    [(1, 9), (4, 9), (3, 30), (13, 100), (16, 100), (64, 100), (64, 16), (5, 40), (7, 11)],
)
def test_each_replica_is_dialed_by_as_many_ranks_as_any_other_or_one_more(
    num_ranks: int, num_replicas: int
) -> None:
    ids = fleet(num_replicas)
    chosen = subsets(ids, num_ranks)
    assert [len(each) for each in chosen] == [SIZE] * num_ranks
    floor, more = divmod(num_ranks * SIZE, num_replicas)
    expected = [floor] * (num_replicas - more) + [floor + 1] * more
    assert sorted(loads(chosen, ids)) == expected


def moved(before: list[set[str]], after: list[set[str]]) -> int:
    return sum(len(new - old) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("num_replicas", [30, 100])
def test_replica_that_goes_moves_few_streams_beside_its_own(num_replicas: int) -> None:
    ids, num_ranks = fleet(num_replicas), 32
    whole = subsets(ids, num_ranks)
    for gone in ids[:5]:
        rest = [name for name in ids if name != gone]
        without = subsets(rest, num_ranks)
        # Those of the lost one must move; whoever balances them moves as many again, or some more.
        (load,) = loads(whole, [gone])
        assert load <= moved(whole, without) <= 4 * load
        # What comes is what goes, read backwards.
        assert moved(without, whole) == moved(whole, without)


def test_order_is_alike_whatever_the_order_of_the_list() -> None:
    ids, caller = fleet(30), Caller(run="run-a", rank=2, num_ranks=4)
    order = dial_order(caller, ids, SIZE)
    assert order == dial_order(caller, [*reversed(ids), ids[0]], SIZE)
    assert sorted(order) == sorted(ids)


def test_replicas_beyond_the_subset_keep_their_order_when_others_go() -> None:
    ids, caller = fleet(30), Caller(run="run-a")
    order = dial_order(caller, ids, SIZE)
    without = dial_order(caller, [name for name in ids if name not in order[:2]], SIZE)
    # One rank alone has nobody to balance with: plain rendezvous hashing.
    assert without == order[2:]


@pytest.mark.parametrize("num_replicas", [0, 1, 8])
def test_small_fleet_is_dialed_whole(num_replicas: int) -> None:
    ids = fleet(num_replicas)
    assert subsets(ids, 3) == [set(ids)] * 3


def test_runs_are_spread_apart() -> None:
    ids = fleet(100)
    together = [each for number in range(64) for each in subsets(ids, 1, run=f"run-{number}")]
    # 5.12 on average; at random all of 64 would hit the same 8 once in 1e70.
    assert len(set().union(*together)) > 90
    assert max(loads(together, ids)) <= 14
