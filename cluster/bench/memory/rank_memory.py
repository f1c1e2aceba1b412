"""Sample the memory of the ranks of a run, from outside, while it runs.

Resident pages are read from /proc. Code of shared libraries, some 120 MiB, is resident in every
rank and counted in each of them: sums over ranks are a little too large, never too small.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

from trainer.common.errors import InputError
from trainer.telemetry.run_log import METRICS_NAME

SAMPLE_S = 0.05


@dataclass(kw_only=True)
class RankMemory:
    """Bytes held by ranks."""

    steps_peak: dict[int, int] = field(default_factory=dict)
    """Rank -> the most it ever held, when the last step was done."""
    together: int = 0
    """The most that all ranks held at one time, up to the end of the run."""


class Sampler:
    """Samples the ranks among our descendants while the context is open."""

    def __init__(self, output: Path, steps: int) -> None:
        self._metrics = output / METRICS_NAME
        self._steps = steps
        self._memory = RankMemory()
        self._ranks: dict[int, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def result(self, ranks: int) -> RankMemory:
        """The measurement; ValueError if a rank was not seen after its last step."""
        if len(self._memory.steps_peak) != ranks:
            raise InputError(
                f"memory must be seen of {ranks} ranks after step {self._steps}, got ranks "
                f"{sorted(self._memory.steps_peak)}. Look into the run's log."
            )
        return self._memory

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            if not self._ranks:
                self._ranks = find_ranks()
                continue
            held = {rank: status_bytes(pid) for rank, pid in self._ranks.items()}
            there = {rank: it for rank, it in held.items() if it is not None}
            together = sum(it["VmRSS"] for it in there.values())
            self._memory.together = max(self._memory.together, together)
            # The peak counts only if all ranks are still there.
            if self._memory.steps_peak or len(there) < len(held):
                continue
            if steps_done(self._metrics) >= self._steps:
                self._memory.steps_peak = {rank: it["VmHWM"] for rank, it in there.items()}


def find_ranks() -> dict[int, int]:
    """Rank -> process id, of our descendants; none before all of them are there."""
    found: dict[int, int] = {}
    world = 0
    for process in psutil.Process().children(recursive=True):
        try:
            environment = process.environ()
        except psutil.Error:
            continue  # it ended meanwhile
        # A rank's own children, compilers for example, inherit its environment: the parent wins.
        if "RANK" in environment and "WORLD_SIZE" in environment:
            world = int(environment["WORLD_SIZE"])
            found.setdefault(int(environment["RANK"]), process.pid)
    return found if world and len(found) == world else {}


def status_bytes(pid: int) -> dict[str, int] | None:
    """VmRSS and VmHWM, its largest value so far, of a process; None if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status))
    # A process that is about to be reaped has no memory any more.
    return {name: 1024 * int(count) for name, count in found.items()} if found else None


def steps_done(metrics: Path) -> int:
    """The last step that a run has written metrics of."""
    if not metrics.is_file():
        return 0
    done = 0
    for line in metrics.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line is being written
        done = max(done, int(entry.get("step", 0)) if "event" not in entry else 0)
    return done
