"""Parts of documents that are made of cells: what stands between two marks is replaced."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trainer.common.atomic import write_text

BEGIN = "<!-- {name}: made by python -m trainer.ablate table; do not edit -->"
END = "<!-- end of {name} -->"


def fill(path: Path, name: str, lines: Iterable[str]) -> bool:
    """Put lines between the marks of a name; False where the file, or a mark, is not there."""
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8")
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, has_begin, rest = text.partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        return False
    write_text(path, "\n".join([f"{before}{begin}", *lines, f"{end}{after}"]))
    return True
