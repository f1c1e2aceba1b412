"""One job at a time in a folder: the next one is refused, and a lock ends with its process."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from trainer.common.errors import MachineError

LOCK_NAME = ".lock"


@contextlib.contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it is not there.

    Args:
        folder: the job's output.
        what: the job, for the error.

    Raises:
        MachineError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MachineError(
                f"no other {what} must run in {folder}, got one. Wait for it, or name another "
                "folder."
            ) from error
        yield
