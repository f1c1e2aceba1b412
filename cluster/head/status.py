"""Nodes, runs and fleet of this head's cluster, on one screen of 80 columns or as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from cluster.head.nodes import nodes_by_kind
from cluster.head.runs import all_runs
from cluster.head.shared import shared_folder

FLEET = ("-m", "teacher_server", "status")
MAX_RUNS = 8
ERROR = "error: "


def as_json() -> dict[str, Any]:
    """What the cluster has and does; `fleet` is null if none answers, `fleet_problem` says why."""
    found, fleet, problem = _found("--json")
    return {**found, "fleet": json.loads(fleet) if fleet else None, "fleet_problem": problem}


def as_text() -> str:
    """The same to be read."""
    found, fleet, problem = _found()
    return "\n".join(
        [*_lines(found["nodes"], found["runs"]), "", fleet or f"teachers: {problem}\n"]
    )


def _found(*options: str) -> tuple[dict[str, Any], str, str]:
    """Nodes and runs, and what the fleet's own `status` prints; or, without that, its error."""
    # Beside the look at nodes: both wait for Ray most of the time.
    with subprocess.Popen(
        [sys.executable, *FLEET, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        now_s = time.time()
        runs = [it.shown(now_s) for it in all_runs(shared_folder())]
        found = {"nodes": nodes_by_kind(), "runs": runs}
        fleet, said = process.communicate()
    return (found, fleet, "") if process.returncode == 0 else (found, "", _error_of(said))


def _error_of(said: str) -> str:
    """The line of an error, without what Ray said before it; it tells what to do."""
    lines = said.strip().splitlines() or ["its status ended without a word"]
    return next((it[len(ERROR) :] for it in lines if it.startswith(ERROR)), lines[-1])


def _lines(nodes: dict[str, list[str]], runs: Sequence[dict[str, Any]]) -> list[str]:
    counts = [f"{len(nodes[kind])} {kind}" for kind in ("teacher", "student")]
    lines = [f"head {', '.join(nodes['head']) or 'none'}; nodes: {', '.join(counts)}", ""]
    lines += [_line("run", "state", "nodes", "step", "pulled")] if runs else ["no run"]
    lines += [_run_line(it) for it in runs[:MAX_RUNS]]
    if len(runs) > MAX_RUNS:
        lines.append(f"and {len(runs) - MAX_RUNS} older ones")
    return lines


def _run_line(run: dict[str, Any]) -> str:
    state = f"{run['state']} ({run['exit_status']})" if run["exit_status"] else run["state"]
    # A run by hand has no supervisor that counts.
    nodes = "-" if run["wanted_nodes"] is None else f"{run['nodes']}/{run['wanted_nodes']}"
    step = "-" if run["step"] is None else f"{run['step']:,}"
    return _line(run["name"], state, nodes, step, "yes" if run["pulled"] else "no")


def _line(name: str, state: str, nodes: str, step: str, pulled: str) -> str:
    return f"{name[:34]:34}  {state:12}  {nodes:>6}  {step:>9}  {pulled}"
