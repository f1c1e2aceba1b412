"""Prints a run's log as it grows. It reads the shared folder alone: the head may be away."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TextIO

from cluster.students.run_files import LOG_NAME, RunState, read_state, run_folder
from trainer.common.errors import UnreachableError

LOOK_S = 0.5
# The supervisor writes every 2 s; a new one is there a minute after its node was lost.
SILENT_S = 300.0


def follow(
    name: str,
    out: TextIO,
    *,
    wait: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.time,
) -> int:
    """Print the log from its beginning until the run is over; its exit status.

    Raises:
        MissingError: if there is no such run.
        UnreachableError: if nobody has written to the run's folder for SILENT_S.
    """
    folder = run_folder(name)
    read_state(folder)
    position = 0
    while True:
        state = read_state(folder)
        position = _print_new(folder / LOG_NAME, position, out)
        if state.exit_status is not None:
            return state.exit_status
        _check_alive(name, state, now())
        wait(LOOK_S)


def _print_new(log: Path, position: int, out: TextIO) -> int:
    """Print whole lines from a position on; the next position."""
    if not log.is_file():
        return position
    with log.open("rb") as file:
        return position + _print_from(file, position, out)


def _print_from(file: BinaryIO, position: int, out: TextIO) -> int:
    file.seek(position)
    content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    out.write(whole.decode("utf-8", errors="replace"))
    out.flush()
    return len(whole)


def _check_alive(name: str, state: RunState, now_s: float) -> None:
    silent_s = now_s - state.updated
    if silent_s > SILENT_S:
        raise UnreachableError(
            f"run {name} must have a supervisor that writes, got none for {silent_s:.0f} s. Look "
            "at ray status; once the cluster is up, run it again: it goes on from its checkpoint."
        )
