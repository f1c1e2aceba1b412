from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.chains import Chain
from trainer.data.dialogue_order import LOOK_AHEAD, epoch_batches, take

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=9)


def chains_of(sizes: list[int]) -> list[Chain]:
    ends = list(itertools.accumulate(sizes))
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def lengths_of(sizes: list[int]) -> np.ndarray:
    """The input of an example is longer by a turn or two than that of the one before it."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.integers(5, 80, size).cumsum() for size in sizes])


def epoch_of(
    sizes: list[int], batch_size: int, *, seed: int = 0, epoch: int = 0
) -> list[list[Chain]]:
    chains, lengths = chains_of(sizes), lengths_of(sizes)
    return epoch_batches(chains, lengths, batch_size=batch_size, seed=seed, epoch=epoch)


def cuts(batches: list[list[Chain]], sizes: list[int]) -> int:
    """Pieces that begin within a chain, behind another piece."""
    ends = {piece.stop for batch in batches for piece in batch}
    starts = {chain.start for chain in chains_of(sizes)}
    pieces = itertools.chain(*batches)
    return sum(piece.start in ends and piece.start not in starts for piece in pieces)


def slow_take(sizes: list[int], count: int) -> tuple[int, ...] | None:
    """Of all choices that are full the one that takes the first chain, else the second, ..."""
    indices = range(len(sizes))
    choices = [c for n in range(len(sizes) + 1) for c in itertools.combinations(indices, n)]
    full = [c for c in choices if sum(sizes[i] for i in c) == count]
    return min(full, default=None)


@settings(deadline=None)
@given(SIZES, st.data())
def test_take_equals_the_first_of_all_choices_that_are_full(
    sizes: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, sum(sizes)))
    waiting = chains_of(sizes)
    taken = take(waiting, count)
    assert sum(map(len, taken)) == count
    expected = slow_take(sizes, count)
    if expected is not None:
        assert taken == [chains_of(sizes)[i] for i in expected]
        assert waiting == [it for it in chains_of(sizes) if it not in taken]
    else:  # The first ones, and the last of them cut.
        assert list(itertools.chain(*taken)) == list(range(count))
        assert list(itertools.chain(*waiting)) == list(range(count, sum(sizes)))
        assert len(taken) + len(waiting) == len(sizes) + 1


@pytest.mark.parametrize(
    ("num_threes", "is_seen"), [(1 + LOOK_AHEAD, True), (2 + LOOK_AHEAD, False)]
)
def test_take_looks_only_so_far_ahead(num_threes: int, is_seen: bool) -> None:
    # Two threes would fill a batch of four.
    waiting = chains_of([*[3] * num_threes, 1])
    single = waiting[-1]
    taken = take(waiting, 4)
    assert list(map(len, taken)) == [3, 1]
    assert (taken[-1] == single) is is_seen


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.data())
def test_epoch_has_full_batches_and_every_example_at_most_once(
    sizes: list[int], data: st.DataObject
) -> None:
    batch_size = data.draw(st.integers(1, sum(sizes)))
    batches = epoch_of(sizes, batch_size, epoch=data.draw(st.integers(0, 3)))
    assert len(batches) == sum(sizes) // batch_size
    assert all(sum(map(len, batch)) == batch_size for batch in batches)
    seen = [i for batch in batches for piece in batch for i in piece]
    assert len(seen) == len(set(seen))
    chain_of = np.repeat(np.arange(len(sizes)), sizes)
    assert all(len({chain_of[i] for i in piece}) == 1 for batch in batches for piece in batch)


@pytest.mark.parametrize(("batch_size", "most"), [(32, 0.02), (64, 0.002)])
def test_epoch_cuts_few_chains_where_their_sizes_differ(batch_size: int, most: float) -> None:
    sizes = np.random.default_rng(0).integers(1, 12, 2000).tolist()
    for epoch in range(3):
        assert cuts(epoch_of(sizes, batch_size, epoch=epoch), sizes) < most * len(sizes)


def test_epoch_of_single_responses_cuts_nothing() -> None:
    ones = [1] * 100
    assert all(len(batch) == 8 for batch in epoch_of(ones, 8))


def test_epoch_cuts_chains_that_fill_no_batch() -> None:
    sizes = [3] * 40
    batches = epoch_of(sizes, 4)
    assert [sum(map(len, batch)) for batch in batches] == [4] * 30
    assert cuts(batches, sizes) > 0


def test_epoch_brings_chains_of_similar_length_together() -> None:
    sizes = np.random.default_rng(0).integers(1, 13, 2000).tolist()
    lengths = lengths_of(sizes)
    used = slots = 0
    for batch in epoch_of(sizes, 32):
        rows = [lengths[chain[-1]] for chain in batch]
        used, slots = used + sum(rows), slots + max(rows) * len(rows)
    assert used / slots > 0.93


def test_epochs_differ_in_companions_and_in_what_they_leave_out() -> None:
    sizes = np.random.default_rng(0).integers(1, 6, 101).tolist()
    left_out, met = set(), set()
    for epoch in range(20):
        batches = epoch_of(sizes, 16, epoch=epoch)
        seen = {i for batch in batches for piece in batch for i in piece}
        left_out.add(frozenset(range(sum(sizes))) - seen)
        met |= {frozenset(batch) for batch in batches}
    assert len(left_out) > 10
    # Few companies meet twice.
    assert len(met) > 0.8 * 20 * len(batches)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0)])
def test_epoch_is_a_function_of_seed_and_epoch(seed: int, epoch: int) -> None:
    sizes = [1, 2, 3, 4] * 20
    assert epoch_of(sizes, 8) == epoch_of(sizes, 8)
    assert epoch_of(sizes, 8) != epoch_of(sizes, 8, seed=seed, epoch=epoch)


def test_epoch_of_one_chain_leaves_out_its_head_or_its_tail() -> None:
    found = [epoch_of([10], 8, epoch=epoch) for epoch in range(12)]
    assert {piece for ((piece,),) in found} == {range(0, 8), range(2, 10)}
