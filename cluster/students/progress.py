"""How far a run is, by the files of its output."""

from __future__ import annotations

import json
from pathlib import Path

from trainer.checkpoints.files import CHECKPOINTS_NAME, step_of, tagged

METRICS_NAME = "metrics.jsonl"
WHOLE_NAME = "whole.json"
TAIL_BYTES = 1 << 16


def last_step(output: Path) -> int:
    """The step of the last whole line of metrics.jsonl; 0: there is none."""
    try:
        with (output / METRICS_NAME).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().rpartition(b"\n")[0].split(b"\n")
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the rest of a line that begins before the tail
        if "event" not in entry:
            return int(entry["step"])
    return 0


def newest_checkpoint(output: Path) -> int:
    """The step of the newest checkpoint that was finished; 0: there is none."""
    whole = [each for each in tagged(output / CHECKPOINTS_NAME) if (each / WHOLE_NAME).exists()]
    return max(map(step_of, whole), default=0)


def log_identity(output: Path) -> int:
    """Changes when a run starts its log: it replaces the file; 0: there is none."""
    try:
        return (output / METRICS_NAME).stat().st_ino
    except FileNotFoundError:
        return 0
