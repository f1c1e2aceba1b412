"""What the user sees of running commands: a live line on a terminal, elsewhere one now and then."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

QUIET_S = 60.0
"""Without a terminal, a running command is mentioned this often: CI ends jobs that say nothing."""
TAIL_BYTES = 8192
LINE_BREAKS = re.compile(r"[\r\n]+")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """Where lines are written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._said_s = time.monotonic()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.clear()
        self._stream.write(f"{line}\n")
        self._stream.flush()
        self._said_s = time.monotonic()

    def show(self, running: Sequence[tuple[str, Path, float]]) -> None:
        """What runs now, as (name, log, elapsed seconds): the names and the newest log line."""
        if not running or not (self._live or time.monotonic() - self._said_s > QUIET_S):
            return
        names = " + ".join(name for name, _, _ in running)
        _, log, elapsed_s = running[0]
        line = f"  {names} [{duration(elapsed_s)}] {''.join(last_lines(log, 1))}"
        if not self._live:
            self.say(line)
            return
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[2K{line[:width]}")
        self._stream.flush()

    def clear(self) -> None:
        """Take the live line away."""
        if self._live:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()


def duration(seconds: float) -> str:
    """Seconds for people: 3.2 s, 4 min 07 s."""
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
