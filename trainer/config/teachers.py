"""Where the teachers are, what protects the way there, and how long a student waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.common.errors import InputError
from trainer.security.addresses import check_address, host_of
from trainer.security.credentials import STUDENT_REMEDY, SecurityFiles, check_host

MAX_PATIENCE_S = 6 * 3600.0


MAX_CACHE_BYTES = 1 << 39


@dataclass(frozen=True, kw_only=True)
class TeachersConfig(SecurityFiles):
    """Where the teachers are, what protects the way there, and how long the student waits."""

    directory: str = "127.0.0.1:50051"
    """host:port of the Directory; `python -m teacher_server up` prints it."""
    in_flight: int = 4
    """Batches whose targets are requested ahead of the step that needs them; a rank holds the
    targets of so many and of the step itself."""
    deadline_s: float = 60.0
    """Seconds after which a request without an answer goes to another replica."""
    hedge_percent: float = 0.0
    """Percentage of the requests, the slowest, that are sent to a second replica too; the first
    answer counts. 0: none."""
    connect_s: float = 10.0
    """How long the first contact with the Directory may take."""
    patience_s: float = 120.0
    """How long a teacher may have no live replica before the run stops; six hours at most."""
    priority: Literal["normal", "low"] = "normal"
    """low: teachers answer only while no request of another run waits, so the run may wait for as
    long as others ask. Who answers nothing for `deadline_s` has then not stalled."""
    cache: str = ""
    """Folder on a local disk where targets are kept and looked for first, shared by the ranks of a
    node; empty: none."""
    cache_bytes: int = 64 << 30
    """Size of that folder at which nothing more is kept."""

    def __post_init__(self) -> None:
        if not 1 <= self.cache_bytes <= MAX_CACHE_BYTES:
            raise InputError(
                f"teachers.cache_bytes must be in [1, {MAX_CACHE_BYTES}], got {self.cache_bytes}."
            )
        check_address("teachers.directory", self.directory)
        directory_host = host_of(self.directory)
        check_host("teachers.directory", directory_host, self, remedy=STUDENT_REMEDY)
        if not 1 <= self.in_flight <= 1024:
            raise InputError(f"teachers.in_flight must be in [1, 1024], got {self.in_flight}.")
        if not 0.0 <= self.hedge_percent <= 50.0:
            raise InputError(
                f"teachers.hedge_percent must be in [0, 50], got {self.hedge_percent}."
            )
        for name, value in (
            ("deadline_s", self.deadline_s),
            ("connect_s", self.connect_s),
            ("patience_s", self.patience_s),
        ):
            if not 0 < value <= MAX_PATIENCE_S:
                raise InputError(
                    f"teachers.{name} must be in (0, {MAX_PATIENCE_S:g}] seconds, got {value}."
                )
