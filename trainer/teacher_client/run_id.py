"""What a run is called at the teachers, which share themselves out by runs."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

MAX_NAME = 32


def new_run_id(folder: str | Path) -> str:
    """A run id (`protos.limits.RUN_ID`) of no other run: the folder's name, for people, and chance.

    Args:
        folder: what the run writes.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(folder).resolve().name)[:MAX_NAME]
    return f"{name or 'run'}-{secrets.token_hex(4)}"
