from __future__ import annotations

import io
from pathlib import Path

from cluster.launch.screen import Screen, duration, last_lines


def test_last_lines_reads_progress_bars_and_colours_as_a_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 9000 + b"\none\n\n\x1b[31mtwo\x1b[0m\r 50%\r100%\n")
    assert last_lines(log, 3) == ["two", " 50%", "100%"]


def test_screen_on_a_terminal_rewrites_one_line(tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream, log = Terminal(), tmp_path / "log"
    log.write_text("step 7\n")
    screen = Screen(stream)
    screen.show([("fit", log, 61.0)])
    assert stream.getvalue() == "\r\x1b[2K  fit [1 min 01 s] step 7"


def test_duration_is_seconds_or_minutes() -> None:
    assert duration(3.21) == "3.2 s"
    assert duration(247.9) == "4 min 07 s"
