"""Temperatures of requests: rows are softened before they are cut, masses are not.

R rows, V vocabulary.
"""

from __future__ import annotations

import numpy as np

from protos.conformance.caller import Caller
from protos.conformance.error_checks import refusing
from protos.conformance.outcomes import Check, NotApplicable, need
from protos.conformance.questions import Question, Questions, num_rows, to_request
from protos.conformance.row_checks import ROUNDING, ask, dense, tolerance
from protos.target_rows import ITEM_MASS, TargetRows
from protos.teacher_pb2 import FLOAT32, Compression, ScoreRequest
from protos.temperatures import temperature_range

ASKED = 2.0
BEYOND = 2.0
"""How many times the highest temperature is refused."""


def softened(caller: Caller, questions: Questions) -> str:
    """P^(1/T), scaled to 1, of the rows that come without a temperature; their masses stay."""
    low, high = temperature_range(questions.about)
    if low == high:
        raise NotApplicable("its requests have no temperature of their own")
    asked = min(ASKED, high)
    sequences = questions.batch()
    plain = ask(caller, sequences)
    rows = _at(caller, sequences, asked)
    expected_RV = dense(plain) ** (1.0 / asked)
    expected_RV /= expected_RV.sum(-1, keepdims=True)
    off, most = float(np.abs(dense(rows) - expected_RV).max()), tolerance(caller)
    need(off <= most, f"rows at {asked:g} must be softened by it, got {off:.3g} off.")
    if ITEM_MASS in plain.masses:
        off = float(np.abs(rows.item_mass_R - plain.item_mass_R).max())
        most = max(ROUNDING, most)
        need(off <= most, f"item_mass must be that without a temperature, got {off:.3g} off.")
    return f"at {asked:g}"


def _at(caller: Caller, sequences: list[Question], temperature: float) -> TargetRows:
    request = to_request(sequences, Compression(values=FLOAT32))
    request.temperature = temperature
    return caller.rows(request, num_rows(sequences))


def _beyond(questions: Questions) -> ScoreRequest:
    request = questions.small()
    _, high = temperature_range(questions.about)
    request.temperature = BEYOND * high
    return request


TEMPERATURE_CHECKS = (
    Check("softens rows at a temperature", softened),
    refusing("a temperature beyond its range", _beyond),
)
