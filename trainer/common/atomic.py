"""Writes that are whole or absent: to a temporary name in the same folder, then one rename."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file by `content`; a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def share_as_umask_says(path: Path) -> None:
    """Give a file that a library made for its owner alone the mode that any new file here has."""
    probe = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    path.chmod(mode)


def write_text(path: Path, text: str) -> None:
    """Replace the file by UTF-8 `text`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Replace the file by indented JSON with a final newline."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
