"""What a finished run comes to: step metrics, machine, sources, scores and sums."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.launch.machine import Machine
from trainer.checkpoints.provenance import ORIGIN_NAME
from trainer.common.machine import memory_bytes
from trainer.common.text_files import read_json_object
from trainer.evaluation.machine_facts import machine_facts
from trainer.evaluation.run_history import RunHistory, read_history

CPU_INFO = Path("/proc/cpuinfo")
DIGITS = 6


def last_steps(folder: Path) -> dict[str, Any]:
    """Means of the step metrics over the run's last steps, and its number of steps."""
    history = read_history(folder)
    last = history.end_steps
    names = sorted({name for step in last for name in step})
    means = {name: _mean([step.get(name) for step in last]) for name in names}
    return {**means, "step": len(history.steps), **_totals(history)}


def _totals(history: RunHistory) -> dict[str, Any]:
    """Of the whole run, the processes before a stop included."""
    return {
        "tokens_per_s": round(history.end["tokens_per_s"], 1),
        "training_seconds": round(history.end["seconds"], 1),
    }


def _mean(values: list[Any]) -> Any:
    """Of the steps that have a number; of histograms the sum."""
    lists = [value for value in values if isinstance(value, list)]
    if lists:
        return [sum(counts) for counts in zip(*lists, strict=True)]
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    return float(f"{statistics.fmean(numbers):.{DIGITS}g}") if numbers else None


def sources_of(folder: Path) -> dict[str, Any]:
    """Digests of the data, the teachers and the weights that a run started from."""
    origin = read_json_object(folder / ORIGIN_NAME)
    origin.pop("format", None)
    # Without dtype and temperature of the replicas: those are the run's settings.
    teachers: Mapping[str, str] = origin["teachers"]
    return {**origin, "teachers": {name: it.split()[0] for name, it in teachers.items()}}


def facts_of(machine: Machine) -> dict[str, Any]:
    """What the seconds of a cell depend on."""
    facts = machine_facts()
    return {
        "cpu": _cpu_name(),
        "memory_gib": round(memory_bytes() / 2**30),
        "ranks": machine.num_ranks,
        # Seconds say little where other work ran beside.
        "load": round(os.getloadavg()[1], 1),
        **{name: facts[name] for name in ("cores", "device", "torch")},
    }


def _cpu_name(info: Path = CPU_INFO) -> str:
    """As Linux names it; unknown elsewhere."""
    if not info.is_file():
        return "unknown"
    lines = info.read_text().splitlines()
    names = [it.partition(":")[2].strip() for it in lines if it.startswith("model name")]
    return names[0] if names else "unknown"
