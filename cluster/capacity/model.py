"""The capacity model: what so many students and so many teachers do together in a second.

A step takes as long as the slower of two: the students, who compute and then meet in an exchange of
gradients, and the teachers, who answer all students' rows one after another. Students ask several
steps ahead, so neither waits for the other as long as it is the slower one; what is left over of a
student's step is its exposed wait.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.capacity.network import Link, exchange_s, exchanged_bytes


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one student and one replica take; seconds, rows and bytes of one step of one rank."""

    compute_s: float
    """Forward, backward and update of a rank."""
    rows: float
    """Supervised positions of a rank, each a row of the dialogue teacher."""
    row_s: float
    """A replica's time for a row: forward, cut and encoding."""
    bytes_per_row: float
    gradient_bytes: float
    num_parameters: int
    stage: int
    link: Link
    request_s: float = 0.0
    """A replica's time for a request beside its rows; a rank has one open request a step."""
    ranks_per_student: int = 1
    """Of a student's host."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a cell of the table should show."""

    students: int
    teachers: int
    step_s: float
    tokens_per_s: float
    """Supervised positions of all students."""
    exchange_s: float
    wait_s: float
    """For teachers, of each step."""
    teacher_use: float
    """Share of the replicas' time in which they score."""
    teacher_bytes_per_s: float
    """Requests and replies of all students."""
    gradient_bytes_per_s: float
    """Sent by one student's host."""

    @property
    def bound_by(self) -> str:
        """Which side makes the step as long as it is."""
        return "teachers" if self.wait_s > 0.0 else "students"


def predict(rates: Rates, *, students: int, teachers: int) -> Prediction:
    """One cell: so many hosts of students beside so many replicas of the dialogue teacher."""
    ranks = students * rates.ranks_per_student
    met_s = exchange_s(
        rates.stage,
        rates.gradient_bytes,
        rates.link,
        hosts=students,
        ranks=ranks,
        num_elements=rates.num_parameters,
    )
    student_s = rates.compute_s + met_s
    teacher_s = ranks * answer_s(rates) / teachers
    step_s = max(student_s, teacher_s)
    rows = ranks * rates.rows
    sent = exchanged_bytes(rates.stage, rates.gradient_bytes, ranks) if students > 1 else 0.0
    return Prediction(
        students=students,
        teachers=teachers,
        step_s=step_s,
        tokens_per_s=rows / step_s,
        exchange_s=met_s,
        wait_s=step_s - student_s,
        teacher_use=teacher_s / step_s,
        teacher_bytes_per_s=rows * rates.bytes_per_row / step_s,
        gradient_bytes_per_s=sent / step_s,
    )


def answer_s(rates: Rates) -> float:
    """A replica's time for all that one rank asks for one step."""
    return rates.rows * rates.row_s + rates.request_s


def replicas_for(rates: Rates, *, students: int) -> int:
    """The fewest replicas of the dialogue teacher for which no student waits."""
    alone = predict(rates, students=students, teachers=1)
    student_s = rates.compute_s + alone.exchange_s
    asked_s = students * rates.ranks_per_student * answer_s(rates)
    # A billionth less: a quotient that is whole must not be rounded up.
    return max(1, math.ceil(asked_s / student_s - 1e-9))
