"""The head's part of `pull`: what a run holds, and that a laptop has it now."""

from __future__ import annotations

import time
from typing import Any

from cluster.head.digests import digests, fingerprint
from cluster.head.runs import all_runs, mark_pulled, named
from cluster.head.shared import SharedFolder


def offer(shared: SharedFolder, name: str) -> dict[str, Any]:
    """The folder of a run, and the digests of its files."""
    folder = named(shared, name)
    # Before the files are read: what changes while they are is seen by `taken`.
    before = fingerprint(folder)
    now_s = time.time()
    going = any(it.is_going(now_s) for it in all_runs(shared) if it.name == name)
    found = digests(folder)
    return {"folder": str(folder), "fingerprint": before, "digests": found, "going": going}


def taken(shared: SharedFolder, name: str, pulled: str) -> dict[str, Any]:
    """Remember what a laptop has; whether it is still all that there is."""
    return {"whole": mark_pulled(shared, name, pulled)}
