"""Nodes, runs and fleet of this head's cluster, on one screen of 80 columns or as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from cluster.head.nodes import nodes_by_kind
from cluster.head.runs import all_runs
from cluster.head.shared import shared_folder

FLEET = ("-m", "teacher_server", "status")
MAX_RUNS = 8


def status() -> dict[str, Any]:
    """What the cluster has and does; `fleet` is null if no teachers are up."""
    fleet, now_s = _fleet("--json"), time.time()
    return {
        "nodes": nodes_by_kind(),
        "runs": [it.shown(now_s) for it in all_runs(shared_folder())],
        "fleet": json.loads(fleet) if fleet else None,
    }


def text(found: dict[str, Any]) -> str:
    """The same to be read."""
    nodes = found["nodes"]
    counts = [f"{len(nodes[kind])} {kind}" for kind in ("teacher", "student")]
    lines = [f"head {', '.join(nodes['head']) or 'none'}; nodes: {', '.join(counts)}", ""]
    lines += [_line("run", "state", "nodes", "step", "pulled")] if found["runs"] else ["no run"]
    lines += [_run_line(it) for it in found["runs"][:MAX_RUNS]]
    if len(found["runs"]) > MAX_RUNS:
        lines.append(f"and {len(found['runs']) - MAX_RUNS} older ones")
    return "\n".join([*lines, "", _fleet() or "no teachers are up\n"])


def _run_line(run: dict[str, Any]) -> str:
    state = run["state"] if not run["exit_status"] else f"{run['state']} ({run['exit_status']})"
    nodes = f"{run['nodes']}/{run['wanted_nodes']}"
    return _line(run["name"], state, nodes, str(run["step"]), "yes" if run["pulled"] else "no")


def _line(name: str, state: str, nodes: str, step: str, pulled: str) -> str:
    return f"{name[:34]:34}  {state:12}  {nodes:>6}  {step:>9}  {pulled}"


def _fleet(*options: str) -> str:
    """What the fleet's own `status` prints; nothing if none is up."""
    argv = [sys.executable, *FLEET, *options]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""
