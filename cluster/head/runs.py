"""The runs on the shared folder: how far each is, and whether a laptop has it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.head.digests import fingerprint
from cluster.head.shared import PULLED, SharedFolder, is_name
from cluster.students.following import SILENT_S
from cluster.students.run_files import LOG_NAME, RUNS, STATE_NAME
from trainer.common.atomic import write_json
from trainer.common.errors import MissingError

UNKNOWN = "unknown"
"""State of a run that no supervisor writes about any more, or that was started by hand."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One folder of runs/."""

    name: str
    folder: Path
    state: dict[str, Any]
    """What its supervisor last wrote; empty if none did."""
    marked: str | None
    """The fingerprint of what a laptop last pulled."""

    @property
    def pulled(self) -> bool:
        """Whether a laptop has what is there now."""
        return self.marked == fingerprint(self.folder)

    @property
    def exit_status(self) -> int | None:
        """None: it has not ended, or no supervisor has started it."""
        return self.state.get("exit_status")

    @property
    def ended_s(self) -> float:
        """Unix time of its end; 0: it has not ended."""
        return 0.0 if self.exit_status is None else self.state.get("updated", 0.0)

    def is_going(self, now_s: float) -> bool:
        """Whether a supervisor is at work; it writes every few seconds, wherever it runs."""
        is_over = self.exit_status is not None
        return not is_over and now_s - self.state.get("updated", 0.0) < SILENT_S

    def shown(self, now_s: float) -> dict[str, Any]:
        """As JSON."""
        going = self.is_going(now_s)
        over = self.exit_status is not None
        return {
            "name": self.name,
            "state": self.state["state"] if going or over else UNKNOWN,
            "going": going,
            "exit_status": self.exit_status,
            "nodes": len(self.state.get("nodes", ())) if going else 0,
            "wanted_nodes": self.state.get("wanted_nodes"),
            "step": self.state.get("step"),
            "message": self.state.get("message", ""),
            "pulled": self.pulled,
        }


def all_runs(shared: SharedFolder) -> list[Run]:
    """All runs, the newest first."""
    root = shared.root / RUNS
    folders = [it for it in root.iterdir() if it.is_dir()] if root.is_dir() else []
    newest_first = sorted(folders, key=_changed_s, reverse=True)
    return [_run(shared, folder) for folder in newest_first if is_name(folder.name)]


def newest(shared: SharedFolder) -> str:
    """The name of the run that last changed.

    Raises:
        MissingError: if there is none.
    """
    runs = all_runs(shared)
    if not runs:
        raise MissingError(
            f"a run must be on {shared.root / RUNS}, got none. Start one: python -m cluster train"
        )
    return runs[0].name


def named(shared: SharedFolder, name: str) -> Path:
    """The folder of a run.

    Raises:
        MissingError: if there is none of this name.
    """
    folder = shared.of(RUNS, name)
    if not folder.is_dir():
        found = ", ".join(it.name for it in all_runs(shared)) or "none"
        raise MissingError(f"the run must be one of the cluster's ({found}), got {name}.")
    return folder


def mark_pulled(shared: SharedFolder, name: str, pulled: str) -> bool:
    """Remember that a laptop has a run; whether it still is what was pulled, by its fingerprint."""
    record = {"fingerprint": pulled, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_json(shared.root / PULLED / f"{name}.json", record)
    return fingerprint(named(shared, name)) == pulled


def _run(shared: SharedFolder, folder: Path) -> Run:
    record = _json(shared.root / PULLED / f"{folder.name}.json")
    return Run(
        name=folder.name,
        folder=folder,
        state=_json(folder / STATE_NAME),
        marked=record.get("fingerprint"),
    )


def _changed_s(folder: Path) -> float:
    files = [it for it in (folder / STATE_NAME, folder / LOG_NAME) if it.is_file()]
    return max(it.stat().st_mtime for it in (folder, *files))


def _json(path: Path) -> dict[str, Any]:
    """A file of ours that is written atomically; empty where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}
