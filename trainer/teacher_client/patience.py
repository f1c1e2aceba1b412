"""How long a teacher may have no replica that answers."""

from __future__ import annotations

import logging

from trainer.common.errors import TeacherUnavailable

logger = logging.getLogger(__name__)

# At the start of a run streams are opening; that no replica is there yet is no news.
WARN_AFTER_S = 2.0


class Patience:
    """Since when each teacher is without, and the error once that lasted too long."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._unavailable_since: dict[str, float] = {}
        self._warned: set[str] = set()

    def on_served(self, name: str) -> None:
        """It is there, or not needed now."""
        self._unavailable_since.pop(name, None)
        self._warned.discard(name)

    def on_missing(
        self, name: str, now_s: float, reason: str, aside: str
    ) -> TeacherUnavailable | None:
        """It is not there; warns once.

        Args:
            name: of the teacher.
            now_s: monotonic time.
            reason: why the last try to reach a replica failed.
            aside: why replicas were put aside; empty: none were.

        Returns:
            The error that ends the run; None as long as patience lasts.
        """
        since_s = self._unavailable_since.setdefault(name, now_s)
        if name not in self._warned and now_s - since_s >= WARN_AFTER_S:
            self._warned.add(name)
            logger.warning(
                "no %s teacher answers (%s); waiting up to %g s", name, reason, self._patience_s
            )
        if now_s - since_s <= self._patience_s:
            return None
        return TeacherUnavailable(
            f"no {name} teacher answered for {self._patience_s:g} s (the last: {reason}). "
            f"{aside and f'Put aside: {aside} '}Look at python -m teacher_server status; the same "
            "command goes on from the last checkpoint."
        )
