"""Rows taken and split by index: the columns of each row stay together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.target_rows import COLUMNS, ITEM_MASS, TargetRows, concat_rows


def numbered(counts: list[int]) -> TargetRows:
    """Rows whose entries and masses are numbered, so that each value names its place."""
    num_entries = sum(counts)
    return TargetRows(
        counts_R=np.array(counts, np.int32),
        ids_E=np.arange(num_entries, dtype=np.int32),
        log_probs_E=-np.arange(num_entries, dtype=np.float32),
        tail_R=np.arange(len(counts), dtype=np.float32),
        masses={ITEM_MASS: np.arange(len(counts), dtype=np.float32) / 2},
        vocab_size=max(1, num_entries),
    )


def assert_same(left: TargetRows, right: TargetRows) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        assert getattr(left, name).dtype == getattr(right, name).dtype


def test_take_gives_rows_in_the_order_of_the_index() -> None:
    taken = numbered([2, 0, 3, 1]).take(np.array([3, 0, 0, 1]))
    assert taken.counts_R.tolist() == [1, 2, 2, 0]
    assert taken.ids_E.tolist() == [5, 0, 1, 0, 1]
    assert taken.tail_R.tolist() == [3, 0, 0, 1]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=5))
def test_split_is_undone_by_concat_and_equals_take(counts_of_parts: list[list[int]]) -> None:
    lengths = [len(counts) for counts in counts_of_parts]
    rows = numbered([count for counts in counts_of_parts for count in counts])
    parts = rows.split(lengths)
    assert [part.num_rows for part in parts] == lengths
    assert_same(concat_rows(parts), rows)
    first = 0
    for part, length in zip(parts, lengths, strict=True):
        assert_same(part, rows.take(np.arange(first, first + length)))
        first += length


def test_split_into_other_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="sum to the 6 rows, got 5"):
        numbered([1] * 6).split([2, 3])
