"""The formats in which log-probs cross the wire: one table, from which everything else follows.

R rows, E entries of all rows together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from protos import teacher_pb2
from protos.columns import mass_error, pack_values, unpack_values


@dataclass(frozen=True, kw_only=True)
class ValueFormat:
    """One precision of log-probs."""

    number: int
    """Its number in teacher.proto's ValueFormat, and in the header of a block."""
    dtype: np.dtype
    """Of one value in a block."""
    encode: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Log-probs float32 [E] and row counts [R] -> values of `dtype` [E]."""
    decode: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Values [E] and row counts [R] -> log-probs float32 [E]."""
    mass_error: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    """Kept mass and row counts [R] -> by how much the kept mass may be off, float64 [R]; None: by
    rounding alone."""


def _float_format(number: int, dtype: np.dtype) -> ValueFormat:
    # What float16 cannot hold would become -inf; e to its smallest number is 0 already.
    lowest = np.finfo(dtype).min
    return ValueFormat(
        number=number,
        dtype=dtype,
        encode=lambda log_probs_E, _: np.maximum(log_probs_E, lowest).astype(dtype),
        decode=lambda values_E, _: values_E.astype(np.float32),
    )


FORMATS = {
    "uint8": ValueFormat(
        number=teacher_pb2.UINT8,
        dtype=np.dtype("u1"),
        encode=pack_values,
        decode=unpack_values,
        mass_error=mass_error,
    ),
    "float16": _float_format(teacher_pb2.FLOAT16, np.dtype("<f2")),
    "float32": _float_format(teacher_pb2.FLOAT32, np.dtype("<f4")),
}
"""By the name that `distill.values` gives."""
BY_NUMBER = {each.number: each for each in FORMATS.values()}
