"""Comparison of target rows bit by bit."""

from __future__ import annotations

from protos.codec import TargetRows


def assert_same_bits(rows: TargetRows, expected: TargetRows) -> None:
    arrays = rows.arrays
    assert arrays.keys() == expected.arrays.keys()
    for name, wanted in expected.arrays.items():
        got = arrays[name]
        assert got.dtype == wanted.dtype
        assert got.tobytes() == wanted.tobytes(), name
    assert rows.vocab_size == expected.vocab_size
