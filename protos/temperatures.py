"""Which temperatures a request may ask of a teacher; both ends read it from the Description.

A request's temperature T softens what a teacher is: its own distribution P, which is at the
temperature of its Description, becomes P^(1/T), scaled to 1. The two multiply.
"""

from __future__ import annotations

from protos.limits import MAX_TEMPERATURE, MIN_TEMPERATURE
from protos.teacher_pb2 import Description


def take_any_temperature(description: Description) -> None:
    """Say that this teacher's rows come at any temperature that the loss can use."""
    description.min_temperature = MIN_TEMPERATURE
    description.max_temperature = MAX_TEMPERATURE


def temperature_range(description: Description) -> tuple[float, float]:
    """The least and the largest temperature of a request; 1 alone where it names no range."""
    return description.min_temperature or 1.0, description.max_temperature or 1.0
