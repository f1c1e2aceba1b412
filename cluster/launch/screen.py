"""Progress of running commands: a live line on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

QUIET_S = 60.0
"""Interval between lines without a terminal: CI ends jobs without output."""
TAIL_BYTES = 8192
LINE_BREAKS = re.compile(r"[\r\n]+")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """Writes lines to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._written_s = time.monotonic()

    def write(self, line: str) -> None:
        """Write a line that stays."""
        self.clear()
        self._stream.write(f"{line}\n")
        self._stream.flush()
        self._written_s = time.monotonic()

    def show(self, running: Sequence[tuple[str, Path, float]]) -> None:
        """Show running commands, given as (name, log, elapsed seconds), and the newest log line."""
        if not running or not (self._live or time.monotonic() - self._written_s > QUIET_S):
            return
        names = " + ".join(name for name, _, _ in running)
        _, log, elapsed_s = running[0]
        line = f"  {names} [{duration(elapsed_s)}] {''.join(last_lines(log, 1))}"
        if not self._live:
            self.write(line)
            return
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[2K{line[:width]}")
        self._stream.flush()

    def clear(self) -> None:
        """Erase the live line."""
        if self._live:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()


def duration(seconds: float) -> str:
    """Seconds as text: 3.2 s, 4 min 07 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that are not empty, as a terminal would show them."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    # Progress bars end their lines with \r.
    lines = (line.rstrip() for line in LINE_BREAKS.split(ESCAPES.sub("", text)))
    return [line for line in lines if line][-count:]
