"""What the driver writes for the processes on the hosts, and what they write for it: small files.

All are in one folder that every host sees: `plan.json` first; `ready-R` of each student; `N.go`
when cell N begins, and `N-R.json` with what rank R measured in it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.common.atomic import write_json, write_text

PLAN_NAME = "plan.json"


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """One cell, for its students."""

    students: int
    batch: int
    """Responses of each student at a step, the same for all of them at every step."""
    compute_s: float
    """How long a student sleeps for forward, backward and update."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a student's process is told; paths are those of the hosts."""

    data: str
    recipe: str
    settings: tuple[str, ...]
    """Overrides with which the client reaches the fleet."""
    master: str
    """host:port where the first rank's store listens."""
    gradient_bytes: int
    steps: int
    warm_up: int
    cells: tuple[CellPlan, ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one rank measured over the steps of a cell, without the warm-up."""

    rows: int
    teacher_bytes: int
    """Requests and replies, without framing."""
    sent_bytes: int
    """By the host's network interface, of every kind."""
    received_bytes: int
    cpu_s: float
    resends: int
    step_s: tuple[float, ...]
    wait_s: tuple[float, ...]
    """For targets, at each step."""
    exchange_s: tuple[float, ...]
    """In the exchange of gradients at each step, the wait for ranks that come later included."""


def write_plan(folder: Path, plan: Plan) -> None:
    """Write a plan before any student starts."""
    write_json(folder / PLAN_NAME, dataclasses.asdict(plan))


def read_plan(folder: Path) -> Plan:
    """The plan of a folder."""
    content: dict[str, Any] = json.loads((folder / PLAN_NAME).read_text())
    content["cells"] = tuple(CellPlan(**cell) for cell in content["cells"])
    content["settings"] = tuple(content["settings"])
    return Plan(**content)


def ready_file(folder: Path, rank: int) -> Path:
    """Is there once a student has loaded everything and met the others: what its exchange alone
    sends, in bytes a second."""
    return folder / f"ready-{rank}"


def go_file(folder: Path, index: int) -> Path:
    """Is there once a cell may begin."""
    return folder / f"{index}.go"


def result_file(folder: Path, index: int, rank: int) -> Path:
    """What a rank measured in a cell."""
    return folder / f"{index}-{rank}.json"


def write_mark(path: Path) -> None:
    """Make an empty file that others wait for."""
    write_text(path, "")


def write_measured(path: Path, measured: Measured) -> None:
    """Write what a rank measured, whole or not at all."""
    write_json(path, dataclasses.asdict(measured))


def read_measured(path: Path) -> Measured:
    """What a rank measured."""
    content: dict[str, Any] = json.loads(path.read_text())
    for name in ("step_s", "wait_s", "exchange_s"):
        content[name] = tuple(content[name])
    return Measured(**content)
