"""The steps of a run, from the log that its first rank wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer.common.errors import MissingError
from trainer.telemetry.run_log import METRICS_NAME


def read_steps(output: Path, *, after: int) -> list[dict[str, Any]]:
    """The lines of the steps after a warm-up; MissingError if there are none."""
    path = output / METRICS_NAME
    lines = path.read_text().splitlines() if path.exists() else []
    entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
    steps = [it for it in entries if "event" not in it and it["step"] > after]
    if not steps:
        raise MissingError(f"{path} must have steps after {after}, got none. See the run's log.")
    return steps
