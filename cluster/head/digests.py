"""What a folder holds, so that a copy can be compared with it; the same on laptop and head."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

BLOCK = 1 << 20


def digests(folder: Path, *, skipped: str = "") -> dict[str, str]:
    """SHA-256 of every file below the folder, by its path there; links count as what they name.

    Args:
        folder: any.
        skipped: an entry of the folder that does not count.
    """
    return {name: _sha256(folder / name) for name in file_names(folder, skipped=skipped)}


def fingerprint(folder: Path) -> str:
    """One digest of names, sizes and times: it changes when a file does, and reads none."""
    whole = hashlib.sha256()
    for name in file_names(folder):
        stat = (folder / name).stat()
        whole.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return whole.hexdigest()


def num_bytes(folder: Path, *, skipped: str = "") -> int:
    """Size of all files below the folder."""
    return sum((folder / name).stat().st_size for name in file_names(folder, skipped=skipped))


def file_names(folder: Path, *, skipped: str = "") -> list[str]:
    """Paths of all files below the folder, sorted."""
    return sorted(it for it in _file_names(folder) if it.partition("/")[0] != skipped)


def _file_names(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            yield (Path(parent) / name).relative_to(folder).as_posix()


def _sha256(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            whole.update(block)
    return whole.hexdigest()
