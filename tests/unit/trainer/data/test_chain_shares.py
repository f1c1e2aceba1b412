from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.chain_shares import chain_keys, cut, split
from trainer.data.chains import Chain


def chains_of(sizes: list[int]) -> list[Chain]:
    ends = list(itertools.accumulate(sizes))
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def shares(
    batch: list[Chain], lengths: np.ndarray, world_size: int, num_parts: int = 1
) -> list[list[list[Chain]]]:
    keys = chain_keys(batch, seed=0)
    return split(batch, lengths, keys, world_size=world_size, num_parts=num_parts)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=20),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_split_gives_every_part_of_every_rank_something_and_loses_nothing(
    sizes: list[int], world_size: int, num_parts: int, seed: int
) -> None:
    sizes = [*sizes, *[1] * max(0, world_size * num_parts - sum(sizes))]
    batch = chains_of(sizes)
    lengths = np.random.default_rng(seed).integers(1, 300, sum(sizes))
    ranks = shares(batch, lengths, world_size, num_parts)
    assert [len(parts) for parts in ranks] == [num_parts] * world_size
    parts = [part for parts in ranks for part in parts]
    assert all(parts)
    pieces = [piece for part in parts for piece in part]
    assert sorted(i for piece in pieces for i in piece) == list(range(sum(sizes)))
    assert all(part == sorted(part, key=lambda piece: piece[0]) for part in parts)
    if len(batch) >= len(parts):
        assert set(pieces) == set(batch)
    else:
        assert len(pieces) == len(parts)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 20))
def test_cut_equals_halving_the_largest_one_by_one(sizes: list[int], at_least: int) -> None:
    at_least = min(at_least, sum(sizes))
    expected = chains_of(sizes)
    while len(expected) < at_least:
        largest = min(expected, key=lambda it: (-len(it), it.start))
        expected.remove(largest)
        middle = len(largest) // 2 + len(largest) % 2
        expected += [largest[:middle], largest[middle:]]
    assert sorted(cut(chains_of(sizes), at_least), key=lambda it: it.start) == sorted(
        expected, key=lambda it: it.start
    )


def test_ranks_differ_by_a_chain_at_most_and_parts_of_a_rank_by_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        lengths = rng.integers(100, 200, 24)
        ranks = shares(chains_of([1] * 24), lengths, 3, 2)
        loads = [[sum(lengths[piece[-1]] for piece in part) for part in parts] for parts in ranks]
        assert np.ptp([sum(parts) for parts in loads]) < 2 * 200
        assert max(abs(np.diff(parts)[0]) for parts in loads) < 200


def test_chain_far_from_the_middle_of_the_keys_stays_on_its_rank() -> None:
    # Twenty chains of one length, of which each epoch draws other companions.
    chains, lengths = chains_of([1] * 200), np.full(200, 10)
    keys = chain_keys(chains, seed=5)
    found: dict[int, set[int]] = {}
    for seed in range(50):
        drawn = np.random.default_rng(seed).permutation(200)[:40]
        ranks = split([chains[i] for i in drawn], lengths, keys, world_size=2, num_parts=1)
        for rank, (part,) in enumerate(ranks):
            for piece in part:
                found.setdefault(piece[0], set()).add(rank)
    outer = [i for i in found if not 0.2 < keys[i] < 0.8]
    assert len(outer) > 40
    assert all(found[i] == {int(keys[i] > 0.5)} for i in outer)


def test_keys_are_one_to_a_chain_and_of_the_seed_alone() -> None:
    keys = chain_keys([range(0, 2), range(2, 3)], seed=1)
    assert keys[0] == keys[1] != keys[2]
    assert np.array_equal(keys, chain_keys([range(0, 2), range(2, 3)], seed=1))
    assert not np.array_equal(keys, chain_keys([range(0, 2), range(2, 3)], seed=2))
