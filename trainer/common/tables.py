"""Tables of plain text in which every value can be read, whatever the width of the terminal."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Collection, Sequence
from typing import TextIO

GAP = "  "


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Columns of the terminal that a stream (default: stdout) goes to; None: it is none.

    The variable COLUMNS names those of a terminal at the other end of a pipe.
    """
    is_known = (stream or sys.stdout).isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return shutil.get_terminal_size().columns if is_known else None


def fitted(
    rows: Sequence[Sequence[str]],
    columns: Sequence[str],
    *,
    right: Collection[str] = (),
    title: str = "",
    width: int | None = None,
) -> str:
    """A table if it fits, else a block of `name value` for each row; no value is ever cut.

    Args:
        rows: one cell per column.
        columns: their names.
        right: names of the columns that are aligned to the right: numbers.
        title: a line above.
        width: columns of the terminal; None: as wide as it needs, as for a pipe.
    """
    lines = _aligned(rows, columns, right)
    if width is not None and max(map(_width, lines)) > width:
        lines = [line for row in rows for line in _block(row, columns, width)]
    return "\n".join([*([title] if title else []), *lines])


def _aligned(
    rows: Sequence[Sequence[str]], columns: Sequence[str], right: Collection[str]
) -> list[str]:
    grid = [list(columns), *map(list, rows)]
    widths = [max(_width(cell) for cell in cells) for cells in zip(*grid, strict=True)]
    grid.insert(1, ["-" * width for width in widths])
    return [
        GAP.join(
            _padded(cell, width, is_right=name in right)
            for cell, width, name in zip(cells, widths, columns, strict=True)
        ).rstrip()
        for cells in grid
    ]


def _block(row: Sequence[str], columns: Sequence[str], width: int) -> list[str]:
    """The first cell on a line, below it the others, as many in a line as fit."""
    lines, line = [row[0]], ""
    for name, cell in zip(columns[1:], row[1:], strict=True):
        # Joined, not formatted: a state of Ray's is a str that formats as its name in Python.
        pair = " ".join((name, cell or "-"))
        if line and _width(GAP + line + GAP + pair) > width:
            lines.append(GAP + line)
            line = ""
        line = f"{line}{GAP}{pair}" if line else pair
    return [*lines, GAP + line] if line else lines


def _padded(cell: str, width: int, *, is_right: bool) -> str:
    space = " " * (width - _width(cell))
    return space + cell if is_right else cell + space


def _width(text: str) -> int:
    """Columns of a text on a terminal: East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(it) in "WF" else 1 for it in text)
