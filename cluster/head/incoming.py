"""The head's part of `push`: a folder arrives beside its place, is compared, and takes it whole."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.head.digests import digests, num_bytes
from cluster.head.shared import MIN_FREE_BYTES, SharedFolder

PART = ".part"
OLD = ".old"


def prepare(shared: SharedFolder, room: str, name: str, size: int) -> dict[str, Any]:
    """Where a folder of so many bytes may arrive, and the digests of what is in its place.

    Raises:
        MachineError: if it does not fit, less what an interrupted push has left.
    """
    part = _beside(shared.of(room, name), PART)
    part.mkdir(parents=True, exist_ok=True)
    shared.check_room(max(0, size - num_bytes(part)) + MIN_FREE_BYTES)
    place = shared.of(room, name)
    return {"part": str(part), "there": digests(place) if place.is_dir() else None}


def place(shared: SharedFolder, room: str, name: str, sent: Mapping[str, str]) -> dict[str, Any]:
    """Put what has arrived in its place if it is what was sent; else say which files differ."""
    final = shared.of(room, name)
    part, old = _beside(final, PART), _beside(final, OLD)
    arrived = digests(part)
    wrong = sorted(it for it in {*sent, *arrived} if sent.get(it) != arrived.get(it))
    if not wrong:
        # Who has the old files open keeps them.
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        part.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    return {"wrong": wrong, "place": str(final)}


def _beside(final: Path, ending: str) -> Path:
    return final.with_name(f".{final.name}{ending}")
