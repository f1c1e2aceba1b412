"""The cells of the table: so many hosts of students beside so many replicas."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_COUNTS = (1, 2, 4)
WEAK, STRONG = "weak", "strong"
# Responses at a step, of each student if scaling is weak, of all together if it is strong: six
# micro-batches of the paper's size.
BATCH = 192
MICRO_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement."""

    scaling: str
    students: int
    teachers: int

    @property
    def batch(self) -> int:
        """Responses of each student at a step."""
        return BATCH if self.scaling == WEAK else BATCH // self.students

    @property
    def name(self) -> str:
        """For logs and files."""
        return f"{self.scaling}-{self.students}x{self.teachers}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Counts of both axes, ascending."""

    students: tuple[int, ...] = DEFAULT_COUNTS
    teachers: tuple[int, ...] = DEFAULT_COUNTS

    def cells(self) -> list[Cell]:
        """In the order in which they are measured: replicas are added, and none is taken away.

        Weak scaling is measured for all pairs; strong scaling of several students beside the most
        teachers.
        """
        weak = [
            Cell(scaling=WEAK, students=students, teachers=teachers)
            for teachers in self.teachers
            for students in self.students
        ]
        strong = [
            Cell(scaling=STRONG, students=students, teachers=self.teachers[-1])
            for students in self.students
            if students > 1 and BATCH % students == 0
        ]
        return weak + strong
