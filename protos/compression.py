"""What a Compression keeps of a row; both ends of the wire reckon with it."""

from __future__ import annotations

import math

from protos.teacher_pb2 import Compression


def check_compression(compression: Compression) -> None:
    """Raise ValueError unless the fields agree; `values` is not looked at."""
    top_p = compression.top_p
    # Written so that NaN fails too.
    if not (math.isfinite(top_p) and 0.0 <= top_p <= 1.0):
        raise ValueError(f"top_p must be in [0, 1], got {top_p}.")
    if compression.samples and (compression.top_k or top_p):
        raise ValueError(
            f"samples must stand alone, got top_k {compression.top_k} and top_p {top_p} beside "
            f"{compression.samples}. Leave them 0."
        )


def cuts_by_mass(compression: Compression) -> bool:
    """Whether rows are cut where their mass reaches top_p, so that they differ in length."""
    return 0.0 < compression.top_p < 1.0


def max_entries(compression: Compression, support: int) -> int:
    """The most entries that one row over `support` columns can keep."""
    wanted = compression.samples or compression.top_k
    return min(wanted, support) if wanted else support
