"""The pace of a student: a file says how many batches it may have asked for by now.

A real student's steps take as long as they take; the one of the proof is so small that it would be
done before anything has happened. It waits before it asks, and computes what it computes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from protos.target_rows import Targets
from trainer.common.atomic import write_text
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits
from trainer.kinds.teacher_kind import TeacherKind
from trainer.lookahead import Teachers

POLL_S = 0.05


def allow(path: Path, batches: int) -> None:
    """Let students ask for so many batches in all."""
    write_text(path, str(batches))


class PacedTeachers:
    """The teachers of a rank, asked no sooner than the file allows."""

    def __init__(self, teachers: Teachers, path: Path) -> None:
        self.counters = teachers.counters
        self._teachers = teachers
        self._path = path
        self._asked = 0

    @property
    def kinds(self) -> Mapping[str, TeacherKind]:
        """The teachers' own."""
        return self._teachers.kinds

    @property
    def identity(self) -> dict[str, str]:
        """The teachers' own."""
        return self._teachers.identity

    @property
    def limits(self) -> Mapping[str, InputLimits]:
        """The teachers' own."""
        return self._teachers.limits

    def submit(self, examples: Sequence[Example], temperature: float = 1.0) -> Future[Targets]:
        """Wait for this batch's turn, then request its targets."""
        while int(self._path.read_text()) <= self._asked:
            time.sleep(POLL_S)
        self._asked += 1
        return self._teachers.submit(examples, temperature)

    def close(self) -> None:
        """Close the teachers."""
        self._teachers.close()
