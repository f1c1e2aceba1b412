"""Temperatures of requests: rows are softened before they are cut, masses are not.

R rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from protos.conformance.caller import Caller
from protos.conformance.error_checks import refusing
from protos.conformance.outcomes import Check, NotApplicable, need
from protos.conformance.probes import Probe, Probes, num_rows, to_request
from protos.conformance.row_checks import ROUNDING, ask, dense, tolerance
from protos.target_rows import ITEM_MASS, TargetRows
from protos.teacher_pb2 import FLOAT32, Compression, ScoreRequest
from protos.temperatures import temperature_range

SOFTER, SHARPER = 2.0, 0.5
BEYOND = 2.0
"""Times the highest temperature, or a part of the lowest: refused."""


def softened(caller: Caller, probes: Probes) -> str:
    """P^(1/T), scaled to 1, of the rows that come without a temperature; their masses stay."""
    low, high = temperature_range(probes.about)
    if low == high:
        raise NotApplicable("its requests have no temperature of their own")
    sequences = probes.batch()
    plain = ask(caller, sequences)
    temperatures = sorted({max(SHARPER, low), min(SOFTER, high)} - {1.0})
    for temperature in temperatures:
        _need_softened(caller, plain, _at(caller, sequences, temperature), temperature)
    return f"at {' and '.join(f'{it:g}' for it in temperatures)}"


def _need_softened(caller: Caller, plain: TargetRows, rows: TargetRows, asked: float) -> None:
    expected_RV = dense(plain) ** (1.0 / asked)
    expected_RV /= expected_RV.sum(-1, keepdims=True)
    off, most = float(np.abs(dense(rows) - expected_RV).max()), tolerance(caller)
    need(off <= most, f"rows at {asked:g} must be softened by it, got {off:.3g} off.")
    if ITEM_MASS in plain.masses:
        off = float(np.abs(rows.item_mass_R - plain.item_mass_R).max())
        most = max(ROUNDING, most)
        need(off <= most, f"item_mass must be that without a temperature, got {off:.3g} off.")


def _at(caller: Caller, sequences: list[Probe], temperature: float) -> TargetRows:
    request = to_request(sequences, Compression(values=FLOAT32))
    request.temperature = temperature
    return caller.rows(request, num_rows(sequences))


def _beyond(of: Callable[[float, float], float]) -> Callable[[Probes], ScoreRequest]:
    """A request at a temperature that is made of the ends of the range."""

    def malformed(probes: Probes) -> ScoreRequest:
        request = probes.small()
        request.temperature = of(*temperature_range(probes.about))
        return request

    return malformed


TEMPERATURE_CHECKS = (
    Check("softens rows at a temperature", softened),
    refusing("a temperature above its range", _beyond(lambda low, high: BEYOND * high)),
    refusing("a temperature below its range", _beyond(lambda low, high: low / BEYOND)),
    refusing("a negative temperature", _beyond(lambda low, high: -high)),
    refusing("a temperature that is no number", _beyond(lambda low, high: math.nan)),
)
