"""What the cache keeps of one example: exact, or an error."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import codec
from protos.codec import FLOAT16, FLOAT32, UINT8, TargetRows, WireError
from protos.target_rows import ITEM_MASS
from tests.support.same_bits import assert_same_bits
from trainer.target_cache.block import pack, unpack

KEY = b"k" * 40
VOCAB = 300


def received(seed: int, num_rows: int, top_k: int, spread: float, values: int) -> TargetRows:
    """Rows as a client gets them: cut, coded and decoded; spread is in nats."""
    rng = np.random.default_rng(seed)
    scores_RV = rng.normal(size=(num_rows, VOCAB)) * spread
    log_probs_RV = scores_RV - np.logaddexp.reduce(scores_RV, axis=1, keepdims=True)
    ids_RK = np.sort(np.argsort(-log_probs_RV, axis=1)[:, :top_k], axis=1)
    log_probs_RK = np.take_along_axis(log_probs_RV, ids_RK, axis=1)
    rows = TargetRows(
        counts_R=np.full(num_rows, top_k, np.int32),
        ids_E=ids_RK.ravel().astype(np.int32),
        log_probs_E=np.minimum(log_probs_RK, 0).ravel().astype(np.float32),
        tail_R=np.clip(1 - np.exp(log_probs_RK).sum(1), 0, 1).astype(np.float32),
        masses={ITEM_MASS: rng.random(num_rows).astype(np.float32)},
        vocab_size=VOCAB,
    )
    return codec.decode(codec.encode(rows, values), num_rows=num_rows, vocab_size=VOCAB)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(0, 6),
    top_k=st.sampled_from([0, 1, 2, 64, VOCAB]),
    # 40 nats: where 8 bits push the kept mass of a row out of the tolerance of exact rows.
    spread=st.sampled_from([0.0, 0.1, 2.0, 8.0, 40.0]),
    values=st.sampled_from([FLOAT32, FLOAT16, UINT8]),
)
def test_unpack_gives_back_received_rows_bit_for_bit(
    seed: int, num_rows: int, top_k: int, spread: float, values: int
) -> None:
    try:
        rows = received(seed, num_rows, top_k, spread, values)
    except WireError:
        # float16 of a row over so many nats is refused on the wire too.
        assert values == FLOAT16
        return
    value = pack(KEY, rows, values)
    assert_same_bits(unpack(KEY, value, vocab_size=VOCAB, num_rows=num_rows), rows)


def test_pack_refuses_rows_that_would_not_come_back_as_they_are() -> None:
    rows = received(0, 5, 64, 2.0, FLOAT32)
    with pytest.raises(ValueError, match="log_probs_E must come back from the codec bit for bit"):
        pack(KEY, rows, UINT8)


def test_value_is_the_wires_block_and_20_bytes() -> None:
    rows = received(0, 5, 64, 2.0, FLOAT32)
    assert len(pack(KEY, rows, FLOAT32)) == len(codec.encode(rows, FLOAT32)) + 20


def test_pack_refuses_rows_that_are_no_distribution() -> None:
    rows = received(0, 2, 4, 2.0, FLOAT32)
    with pytest.raises(ValueError, match="must be finite"):
        pack(KEY, dataclasses.replace(rows, log_probs_E=rows.log_probs_E * np.nan), FLOAT32)


@pytest.mark.parametrize("values", [FLOAT32, UINT8])
def test_value_with_any_one_byte_changed_is_refused(values: int) -> None:
    value = pack(KEY, received(1, 2, 5, 2.0, values), values)
    for position in range(len(value)):
        broken = bytearray(value)
        broken[position] ^= 0x40
        with pytest.raises(WireError):
            unpack(KEY, bytes(broken), vocab_size=VOCAB, num_rows=2)


def test_value_cut_short_anywhere_is_refused() -> None:
    value = pack(KEY, received(1, 2, 5, 2.0, UINT8), UINT8)
    for length in range(len(value)):
        with pytest.raises(WireError):
            unpack(KEY, value[:length], vocab_size=VOCAB, num_rows=2)


def test_value_of_another_key_number_of_rows_or_vocabulary_is_refused() -> None:
    value = pack(KEY, received(1, 2, 5, 2.0, UINT8), UINT8)
    with pytest.raises(WireError, match="checksum"):
        unpack(b"l" * 40, value, vocab_size=VOCAB, num_rows=2)
    with pytest.raises(WireError, match="3 rows asked for, got 2"):
        unpack(KEY, value, vocab_size=VOCAB, num_rows=3)
    with pytest.raises(WireError, match="vocabulary"):
        unpack(KEY, value, vocab_size=VOCAB + 1, num_rows=2)
    assert unpack(KEY, value, vocab_size=VOCAB).num_rows == 2
