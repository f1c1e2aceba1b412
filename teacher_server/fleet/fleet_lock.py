"""One command at a time changes a fleet: a lock on a file beside its record.

The kernel frees the lock with its holder, however that ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trainer.common.errors import InputError


@contextlib.contextmanager
def changing(path: Path, command: str) -> Iterator[None]:
    """Be the one command that changes a fleet.

    Args:
        path: the fleet's record.
        command: for whoever comes meanwhile.

    Raises:
        InputError: if another command changes it, naming the command and its process.
    """
    lock = path.with_name(f"{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, lock) as file:
        file.truncate(0)
        file.write(f"{os.getpid()} {command}")
        file.flush()
        try:
            yield
        finally:
            # While it is held: who opened it before looks whether it is there still.
            lock.unlink(missing_ok=True)


def _locked(path: Path, lock: Path) -> IO[str]:
    while True:
        file = lock.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                pid, _, command = file.read().partition(" ")
            holder = (
                f"`{command}` of process {pid} at work. Wait until it has ended, or end it: kill "
                f"-INT {pid}"
                if pid
                # It has the lock, and writes its name next.
                else "another one that begins. Give the command again, to see which it is."
            )
            raise InputError(
                f"the fleet of {path} must be changed by one command at a time, got {holder}"
            ) from None
        if _is_there(file, lock):
            return file
        file.close()


def _is_there(file: IO[str], lock: Path) -> bool:
    """Whether a file that was opened has its name still: the holder before may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except FileNotFoundError:
        return False
