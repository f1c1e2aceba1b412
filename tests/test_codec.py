from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import codec
from protos.codec import BlockLimits, TargetRows, WireError

VOCAB_SIZE = 1000


def rows_of(counts: list[int], seed: int, vocab_size: int = VOCAB_SIZE) -> TargetRows:
    rng = np.random.default_rng(seed)
    ids, probs, tails = [], [], []
    for count in counts:
        ids.append(np.sort(rng.choice(vocab_size, count, replace=False)))
        mass = rng.dirichlet(np.ones(count + 1))
        probs.append(np.maximum(mass[:count], 1e-8))
        tails.append(mass[count])
    return TargetRows(
        counts_R=np.array(counts, np.int32),
        ids_E=np.concatenate([*ids, np.empty(0)]).astype(np.int32),
        log_probs_E=np.log(np.concatenate([*probs, np.empty(0)])).astype(np.float32),
        tail_R=np.array(tails, np.float32),
        item_mass_R=rng.random(len(counts)).astype(np.float32),
        vocab_size=vocab_size,
    )


def assert_same(left: TargetRows, right: TargetRows) -> None:
    for name in ("counts_R", "ids_E", "log_probs_E", "tail_R", "item_mass_R"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


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
        half_step = (sent.max() - sent.min()) / 510
        assert np.abs(sent - got).max() <= (bound or half_step + 1e-5), row
    np.testing.assert_array_equal(decoded.ids_E, rows.ids_E)
    np.testing.assert_array_equal(decoded.tail_R, rows.tail_R)
    np.testing.assert_array_equal(decoded.item_mass_R, rows.item_mass_R)


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
    with pytest.raises(WireError, match=r"whole|hold"):
        codec.decode(block[:-5], num_rows=2, vocab_size=VOCAB_SIZE)


def test_codec_block_over_a_limit_is_refused_before_decompression() -> None:
    block = codec.encode(rows_of([3, 7], seed=1))
    with pytest.raises(WireError, match="stay under"):
        codec.decode(
            block, num_rows=2, vocab_size=VOCAB_SIZE, limits=BlockLimits(max_decoded_bytes=10)
        )


def test_codec_frame_that_claims_more_than_the_header_is_refused() -> None:
    block = codec.encode(rows_of([3, 7], seed=1))
    bomb = zstandard.ZstdCompressor().compress(b"\0" * (1 << 20))
    with pytest.raises(WireError, match="claims 1048576"):
        codec.decode(block[: codec.HEADER.size] + bomb, num_rows=2, vocab_size=VOCAB_SIZE)


def test_codec_rows_that_are_no_distribution_are_refused() -> None:
    good = rows_of([2], seed=0)
    for bad in (
        {"ids_E": good.ids_E[::-1].copy()},
        {"ids_E": np.array([1, VOCAB_SIZE], np.int32)},
        {"tail_R": np.array([np.nan], np.float32)},
        {"item_mass_R": np.array([1.5], np.float32)},
        {"log_probs_E": np.array([-1.0, np.inf], np.float32)},
        {"counts_R": np.array([3], np.int32)},
        {"tail_R": np.zeros(1, np.float32)},
        {"log_probs_E": np.zeros(2, np.float32)},
    ):
        columns = {**vars(good), **bad}
        with pytest.raises(ValueError, match="must"):
            codec.encode(TargetRows(**columns))
