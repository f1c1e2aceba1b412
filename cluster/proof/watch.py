"""When each student made its steps, read from its log as it grows, and how long it stood still."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.telemetry.run_log import METRICS_NAME

EVERY_S = 0.1
TAIL_BYTES = 16_384


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A step, and the first look at which it was in the log."""

    at_s: float
    step: int


class Watch:
    """Looks into the logs of students all the time, from entering the context to leaving it."""

    def __init__(self, outputs: Sequence[Path]) -> None:
        self.seen: dict[str, list[Seen]] = {it.name: [] for it in outputs}
        self._logs = {it.name: it / METRICS_NAME for it in outputs}
        self._start_s = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def now_s(self) -> float:
        """Seconds since the watch was made, or set to zero."""
        return time.monotonic() - self._start_s

    def set_to_zero(self) -> None:
        """Count seconds from now on; of the steps before, the last one of each student is now."""
        with self._lock:
            self._start_s = time.monotonic()
            for name in self.seen:
                self.seen[name] = [Seen(at_s=0.0, step=self.step(name))]

    def step(self, name: str) -> int:
        """The last step that a student has made; 0: none yet."""
        seen = self.seen[name]
        return seen[-1].step if seen else 0

    def _look_on(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.look()

    def look(self) -> None:
        """Note the steps that have come."""
        for name, log in self._logs.items():
            step = last_step(log)
            with self._lock:
                if step > self.step(name):
                    self.seen[name].append(Seen(at_s=self.now_s(), step=step))


def last_step(log: Path) -> int:
    """The step of the last line about one; 0: there is none yet."""
    if not log.is_file():
        return 0
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode()
    # What is before the first line break may be the end of a line, and after the last the start.
    lines = f"\n{text}".rpartition("\n")[0].splitlines()[1:]
    steps = [entry["step"] for entry in map(_parsed, lines) if "event" not in entry]
    return steps[-1] if steps else 0


def step_entries(log: Path) -> list[dict[str, Any]]:
    """All lines about steps of a run that has ended."""
    entries = map(json.loads, log.read_text().splitlines())
    return [entry for entry in entries if "event" not in entry]


def _parsed(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        return {"event": "cut"}


def longest_stall_s(seen: Sequence[Seen], from_s: float, to_s: float) -> float:
    """The longest time without a step, of those that end in an interval or last beyond it.

    Of one that has no end yet, what has passed of it in the interval.
    """
    times = [it.at_s for it in seen]
    before = max((it for it in times if it <= from_s), default=from_s)
    stops = [before, *(it for it in times if from_s < it <= to_s)]
    after = min((it for it in times if it > to_s), default=to_s)
    gaps = [later - earlier for earlier, later in itertools.pairwise(stops)]
    # A stall that has begun here belongs here, to its end.
    return max([*gaps, after - stops[-1]])
