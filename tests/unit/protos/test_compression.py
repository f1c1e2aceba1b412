"""What a Compression keeps of a row."""

from __future__ import annotations

import math

import pytest

from protos.compression import check_compression, cuts_by_mass, max_entries
from protos.teacher_pb2 import Compression


@pytest.mark.parametrize(
    ("compression", "entries"),
    [
        (Compression(), 9),
        (Compression(top_k=4), 4),
        (Compression(top_k=99), 9),
        (Compression(top_p=0.5), 9),
        (Compression(top_k=4, top_p=0.5), 4),
        (Compression(samples=3), 3),
        (Compression(samples=99), 9),
    ],
    ids=str,
)
def test_a_row_of_nine_keeps_at_most(compression: Compression, entries: int) -> None:
    check_compression(compression)
    assert max_entries(compression, 9) == entries
    assert cuts_by_mass(compression) == (compression.top_p == 0.5)


def test_samples_beside_a_top_k_or_top_p_are_refused() -> None:
    for beside in (Compression(top_k=3, samples=3), Compression(top_p=0.5, samples=3)):
        with pytest.raises(ValueError, match="samples must stand alone"):
            check_compression(beside)


@pytest.mark.parametrize("top_p", [-0.1, 1.5, math.nan, math.inf])
def test_top_p_out_of_range_is_refused(top_p: float) -> None:
    with pytest.raises(ValueError, match=r"top_p must be in \[0, 1\], got"):
        check_compression(Compression(top_k=1, top_p=top_p))
