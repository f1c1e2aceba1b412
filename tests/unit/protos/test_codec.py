from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import codec
from protos.codec import BlockLimits, TargetRows, WireError
from protos.columns import (
    PackedIds,
    SmallNumbers,
    pack_ids,
    pack_values,
    unpack_ids,
    unpack_values,
)
from protos.target_rows import ITEM_MASS
from tests.support.random_rows import VOCAB_SIZE, rows_of


def assert_same(left: TargetRows, right: TargetRows) -> None:
    assert left.arrays.keys() == right.arrays.keys()
    for name, array in left.arrays.items():
        np.testing.assert_array_equal(array, right.arrays[name])


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), max_size=12),
    seed=st.integers(0, 2**32 - 1),
    vocab_size=st.sampled_from([50, 1 << 16, 70_000]),
)
def test_codec_float32_round_trip_is_exact(counts: list[int], seed: int, vocab_size: int) -> None:
    rows = rows_of(counts, seed, vocab_size)
    block = codec.encode(rows)
    assert_same(rows, codec.decode(block, num_rows=len(counts), vocab_size=vocab_size))


def uint8_round_trip(rows: TargetRows) -> TargetRows:
    block = codec.encode(rows, codec.UINT8)
    return codec.decode(block, num_rows=rows.num_rows, vocab_size=rows.vocab_size)


def half_steps(probs: np.ndarray, count: int) -> np.ndarray:
    """Half the width of the 8-bit step around each probability, by docs/wire.md."""
    mu = max(1.0, count**1.5 / 32)
    # In the middle of the step above: a convex step is widest there.
    top = np.expm1(np.log1p(mu * probs) + math.log1p(mu) / 255) / mu
    return (top - probs) * 0.75


@pytest.mark.parametrize(("values", "bound"), [(codec.FLOAT16, 1e-2), (codec.UINT8, None)])
def test_codec_quantised_round_trip_stays_in_its_bound(values: int, bound: float | None) -> None:
    rows = rows_of([5, 0, 64, 1], seed=3)
    decoded = codec.decode(codec.encode(rows, values), num_rows=4, vocab_size=VOCAB_SIZE)
    start = 0
    for row, count in enumerate(rows.counts_R):
        entries = slice(start, start + count)
        start += count
        if count == 0:
            continue
        sent, got = rows.log_probs_E[entries], decoded.log_probs_E[entries]
        if bound is not None:
            assert np.abs(sent - got).max() <= bound, row
            continue
        off = np.abs(np.exp(sent.astype(np.float64)) - np.exp(got.astype(np.float64)))
        assert np.all(off <= half_steps(np.exp(sent), count) * 1.001 + 1e-7), row
    np.testing.assert_array_equal(decoded.ids_E, rows.ids_E)
    np.testing.assert_array_equal(decoded.tail_R, rows.tail_R)
    np.testing.assert_array_equal(decoded.item_mass_R, rows.item_mass_R)


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 300), max_size=6), seed=st.integers(0, 2**32 - 1))
def test_codec_uint8_rows_sent_on_stay_the_same_bit_for_bit(counts: list[int], seed: int) -> None:
    once = uint8_round_trip(rows_of(counts, seed))
    again = uint8_round_trip(once)
    assert_same(once, again)


def test_codec_every_code_of_every_row_length_is_packed_to_itself() -> None:
    for count in (1, 2, 5, 8, 64, 256, 2048, 57_184):
        codes = np.arange(256, dtype=np.uint8)
        counts_R = np.array([count])
        log_probs = unpack_values(np.resize(codes, count), counts_R)
        np.testing.assert_array_equal(pack_values(log_probs, counts_R), np.resize(codes, count))
        assert np.all(np.isfinite(log_probs))


def ids_twin(ids_R: list[list[int]], vocab_size: int) -> tuple[list[int], list[list[int]]]:
    """Table and gaps of the rows' ids, one id at a time; docs/wire.md."""
    times: dict[int, int] = {}
    for token in (token for ids in ids_R for token in ids):
        times[token] = times.get(token, 0) + 1
    table = sorted(times, key=lambda token: (-int(math.log2(times[token])), token))
    gaps = []
    for ids in ids_R:
        ranks = sorted(table.index(token) for token in ids)
        gaps.append([rank - before - 1 for before, rank in zip([-1, *ranks], ranks, strict=False)])
    steps = [
        (token - before) % vocab_size for before, token in zip([0, *table], table, strict=False)
    ]
    return steps, gaps


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), max_size=12),
    seed=st.integers(0, 2**32 - 1),
    vocab_size=st.sampled_from([41, 1000, 70_000]),
)
def test_pack_ids_equals_one_id_at_a_time(counts: list[int], seed: int, vocab_size: int) -> None:
    rows = rows_of(counts, seed, vocab_size)
    ids_R = [ids.tolist() for ids in np.split(rows.ids_E, np.cumsum(counts)[:-1])] if counts else []
    table, gaps = ids_twin(ids_R, vocab_size)
    packed = pack_ids(rows.ids_E, rows.counts_R, vocab_size)
    assert packed.table.numbers().tolist() == table
    assert packed.gaps.numbers().tolist() == [gap for row in gaps for gap in row]
    np.testing.assert_array_equal(unpack_ids(packed, rows.counts_R, vocab_size), rows.ids_E)


def test_unpack_ids_of_a_table_that_repeats_or_ends_too_early_is_refused() -> None:
    counts_R = np.array([2])
    good = pack_ids(np.array([3, 8]), counts_R, 10)
    twice = PackedIds(SmallNumbers.of(np.array([3, 10])), good.gaps)
    with pytest.raises(WireError, match="each id once, got 3 2 times"):
        unpack_ids(twice, counts_R, 10)
    beyond = PackedIds(good.table, SmallNumbers.of(np.array([0, 1])))
    with pytest.raises(WireError, match="ranks must be below 2, got 2"):
        unpack_ids(beyond, counts_R, 10)


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_codec_block_with_any_byte_changed_is_refused_or_equal(position: int, value: int) -> None:
    rows = rows_of([3, 7], seed=1)
    block = bytearray(codec.encode(rows))
    position %= len(block)
    block[position] = value
    try:
        decoded = codec.decode(bytes(block), num_rows=2, vocab_size=VOCAB_SIZE)
    except WireError:
        return
    assert_same(rows, decoded)


@settings(max_examples=300, deadline=None)
@given(block=st.binary(max_size=200))
def test_codec_random_bytes_are_refused(block: bytes) -> None:
    with pytest.raises(WireError):
        codec.decode(block, num_rows=2, vocab_size=VOCAB_SIZE)


def test_codec_short_or_alien_block_names_both_values() -> None:
    block = codec.encode(rows_of([3, 7], seed=1))
    with pytest.raises(WireError, match="the 3 rows asked for, got 2"):
        codec.decode(block, num_rows=3, vocab_size=VOCAB_SIZE)
    with pytest.raises(WireError, match="for 999 vocabulary entries, got 1000"):
        codec.decode(block, num_rows=2, vocab_size=999)
    with pytest.raises(WireError, match="values must be in format 3, got format 1"):
        codec.decode(block, num_rows=2, vocab_size=VOCAB_SIZE, values=codec.UINT8)
    with pytest.raises(WireError, match="must have the checksum 0x"):
        codec.decode(block[:-5], num_rows=2, vocab_size=VOCAB_SIZE)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (BlockLimits(max_decoded_bytes=10), "stay under .* bytes"),
        (BlockLimits(max_rows=1), "the 2 rows asked for"),
        # The ids of 9 entries may take 6 + 18 * 5 bytes, which those of 10 need not exceed.
        (BlockLimits(max_entries=9), "stay under .*, got 10 entries"),
        (BlockLimits(max_entries=1), "section 1 must hold at most 16 bytes, got 26"),
    ],
)
def test_codec_block_over_a_limit_is_refused(limits: BlockLimits, message: str) -> None:
    block = codec.encode(rows_of([3, 7], seed=1, vocab_size=255))
    with pytest.raises(WireError, match=message):
        codec.decode(block, num_rows=2, vocab_size=255, limits=limits)


def test_codec_float16_of_a_log_prob_beyond_its_range_stays_finite() -> None:
    rows = rows_of([2], seed=0)
    log_probs = np.array([np.log(1 - rows.tail_R[0]), -1e9], np.float32)
    rows = dataclasses.replace(rows, log_probs_E=log_probs)
    decoded = codec.decode(codec.encode(rows, codec.FLOAT16), num_rows=1, vocab_size=VOCAB_SIZE)
    assert np.exp(decoded.log_probs_E).tolist() == pytest.approx([1 - rows.tail_R[0], 0], abs=1e-3)


def test_codec_rows_that_are_no_distribution_are_refused_with_rule_and_value() -> None:
    good = rows_of([2], seed=0)
    low, high = good.ids_E
    for message, bad in (
        (f"ascend within a row, got {low} after {high}", {"ids_E": good.ids_E[::-1].copy()}),
        (r"ids must be in \[0, 1000\), got 1..1000", {"ids_E": np.array([1, 1000], np.int32)}),
        (r"tail must be in \[0, 1\], got nan", {"tail_R": np.array([np.nan], np.float32)}),
        ("item_mass must be in .*, got 1.5", {"masses": {ITEM_MASS: np.array([1.5], np.float32)}}),
        ("item_mass must have 1 rows, got 0", {"masses": {ITEM_MASS: np.zeros(0, np.float32)}}),
        ("named by 1 to 64 of .*, got 'Item'", {"masses": {"Item": np.zeros(1, np.float32)}}),
        ("named by 1 to 64 of .*, got ''", {"masses": {"": np.zeros(1, np.float32)}}),
        (
            "at most 8 masses, got 9",
            {"masses": {f"mass_{n}": np.zeros(1, np.float32) for n in range(9)}},
        ),
        ("finite and <= 0, got inf", {"log_probs_E": np.array([-1.0, np.inf], np.float32)}),
        ("of the same entries, got 2, 2 and 3", {"counts_R": np.array([3], np.int32)}),
        ("must make 1, got .* and 0.000", {"tail_R": np.zeros(1, np.float32)}),
        ("must make 1, got 2.000", {"log_probs_E": np.zeros(2, np.float32)}),
    ):
        columns = {**vars(good), **bad}
        with pytest.raises(ValueError, match=message):
            codec.encode(TargetRows(**columns))
