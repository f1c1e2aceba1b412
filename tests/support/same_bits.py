"""Comparison of target rows bit by bit."""

from __future__ import annotations

from protos.codec import TargetRows

ARRAYS = ("counts_R", "ids_E", "log_probs_E", "tail_R", "item_mass_R")


def assert_same_bits(rows: TargetRows, expected: TargetRows) -> None:
    for name in ARRAYS:
        got, wanted = getattr(rows, name), getattr(expected, name)
        assert got.dtype == wanted.dtype
        assert got.tobytes() == wanted.tobytes(), name
    assert rows.vocab_size == expected.vocab_size
