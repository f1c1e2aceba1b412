"""Output of the commands in main.py about a fleet: a table, JSON, and scrape targets."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from protos.teacher_pb2 import Endpoint, ReplicaStats
from teacher_server.fleet.deploy import PROBE_S
from teacher_server.fleet.directory_server import fetch_fleet
from teacher_server.fleet.groups import kind_of
from teacher_server.fleet.local_cluster import FleetState
from teacher_server.fleet.replica_rates import as_fields, fetch_all_stats, rates, scrape_targets
from teacher_server.fleet.run_shares import run_tables, run_totals
from teacher_server.fleet.scaling import ReplicaRange, ScalingTarget
from teacher_server.fleet.status import KindStatus, kinds_status, problem_of
from trainer.common.errors import InputError
from trainer.common.tables import fitted, terminal_width

RATES = ("requests/s", "positions/s", "queue", "in flight")
COLUMNS = ("kind", "wanted", "state", "replica", "pid", "endpoint", *RATES)


def say(text: str) -> None:
    """A line about what is being done, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def print_status(state: FleetState, *, as_json: bool) -> None:
    """Show the fleet on stdout: kinds, replicas, endpoints, their state and statistics."""
    content, stats = _look(state)
    if as_json:
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return
    sys.stdout.write(status_page(content, stats, {}, width=terminal_width()) + "\n")


def watch_status(read: Callable[[], FleetState], every_s: float) -> None:
    """The same again and again, with rates between one look and the next, until Ctrl-C.

    `read`: the fleet's record, which a roll changes meanwhile.
    """
    console = Console()
    before: dict[str, ReplicaStats] = {}
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            content, stats = _look(read())
            page = status_page(content, stats, before, width=terminal_width())
            # What is written to a file or a pipe cannot be drawn over.
            if console.is_terminal:
                live.update(Text(page), refresh=True)
            else:
                sys.stdout.write(f"{page}\n")
                sys.stdout.flush()
            before = stats
            time.sleep(every_s)


def print_replaced(replaced: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Old and new replica ids of each kind, and of the Directory, as JSON on stdout."""
    content = {
        kind: [{"old": old, "new": new} for old, new in pairs] for kind, pairs in replaced.items()
    }
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def print_scrape_targets(state: FleetState) -> None:
    """Where a Prometheus finds the replicas, as JSON on stdout; needs the Directory alone.

    Raises:
        OSError: if the Directory does not answer.
        InputError: if there are replicas, and none of them serves metrics.
    """
    addresses = {
        it.replica_id: it.address for it in fetch_fleet(state.directory, PROBE_S, state.security)
    }
    stats = fetch_all_stats(addresses, PROBE_S, state.security)
    targets = scrape_targets(stats.values())
    if stats and not targets:
        raise InputError(
            f"the fleet must serve metrics, got {len(stats)} replicas without. "
            "Start it with up --metrics."
        )
    sys.stdout.write(json.dumps(targets, indent=2) + "\n")


def _look(state: FleetState) -> tuple[dict[str, Any], dict[str, ReplicaStats]]:
    """The state of Serve, the Directory and the replicas now; statistics by replica id."""
    try:
        endpoints = fetch_fleet(state.directory, PROBE_S, state.security)
        addresses = {it.replica_id: it.address for it in endpoints}
        directory_state = "RUNNING"
    except OSError:
        endpoints, addresses, directory_state = [], {}, "UNREACHABLE"
    stats = fetch_all_stats(addresses, PROBE_S, state.security)
    groups = kinds_status()
    of_serve = {replica_id for status in groups.values() for replica_id in status.replicas}

    def shown(status: KindStatus) -> dict[str, Any]:
        return {
            "state": status.state,
            "target": status.target,
            "min": status.replica_range.min,
            "max": status.replica_range.max,
            "autoscaling": dataclasses.asdict(status.scaling) if status.scaling else None,
            "problem": problem_of(status),
            "runs": run_totals(stats[it] for it in status.replicas if it in stats),
            "replicas": [
                {
                    "replica_id": replica_id,
                    "state": replica_state,
                    "pid": pid,
                    "address": addresses.get(replica_id),
                    "stats": as_fields(stats[replica_id]) if replica_id in stats else None,
                }
                for replica_id, (replica_state, pid) in sorted(status.replicas.items())
            ],
        }

    content: dict[str, Any] = {
        "directory": state.directory,
        "directory_state": directory_state,
        "ray_address": state.ray_address,
        "keeper_pid": state.keeper_pid,
        "kinds": {
            kind: shown(groups[group]) for kind, group in state.current.items() if group in groups
        },
        "retiring": {
            group: shown(status)
            for group, status in groups.items()
            if group in state.retiring and not status.has_ended
        },
        "unrecorded": {
            group: shown(status) for group, status in groups.items() if group not in state.options
        },
        "outside": outside_teachers(endpoints, of_serve),
    }
    return content, stats


def outside_teachers(
    endpoints: Iterable[Endpoint], of_serve: Container[str]
) -> list[dict[str, Any]]:
    """What is listed and not Serve's: teachers of other makes (or of a replica that just died)."""
    return [
        {
            "kind": it.kind,
            "replica_id": it.replica_id,
            "address": it.address,
            "weights_digest": it.weights_digest,
            "model": it.model,
            "zone": it.zone,
            "capacity": it.capacity,
        }
        for it in endpoints
        if it.replica_id not in of_serve
    ]


def status_page(
    content: Mapping[str, Any],
    now: Mapping[str, ReplicaStats],
    before: Mapping[str, ReplicaStats],
    *,
    width: int | None = None,
) -> str:
    """Tables of replicas and of runs, and a line for each address; whole at any width."""
    rows = []
    shown = [(kind, _wanted(it), it) for kind, it in content["kinds"].items()]
    shown += [(kind_of(group), "retiring", it) for group, it in content["retiring"].items()]
    shown += [(kind_of(group), "unrecorded", it) for group, it in content["unrecorded"].items()]
    for kind, wanted, status in shown:
        none = [{"state": "", "replica_id": "", "pid": "", "address": ""}]
        for replica in status["replicas"] or none:
            replica_id = replica["replica_id"]
            rows.append(
                (
                    kind,
                    wanted,
                    replica["state"] or status["state"],
                    replica_id,
                    str(replica["pid"]),
                    replica["address"] or "not announced",
                    *_cells(now.get(replica_id), before.get(replica_id)),
                )
            )
    for each in content["outside"]:
        cells = ("", "outside", each["replica_id"], "", each["address"])
        rows.append((each["kind"], *cells, *_cells(None, None)))
    lines = [
        fitted(rows, COLUMNS, right=RATES, width=width),
        *run_tables(_replicas_of(content), now, before, width=width),
        *_autoscaled(content["kinds"]),
        *_problems(content["kinds"]),
        *_problems(content["retiring"]),
        *_problems(content["unrecorded"]),
        f"Directory  {content['directory']}  {content['directory_state']}",
        f"Ray        {content['ray_address']}",
        f"Rates      {_since(now, before)}",
    ]
    return "\n".join(lines)


def _since(now: Mapping[str, ReplicaStats], before: Mapping[str, ReplicaStats]) -> str:
    if before:
        return "between the last two looks"
    silent = [replica_id for replica_id, stats in sorted(now.items()) if not stats.recent_s]
    others = f"; of {', '.join(silent)}, which tell no more: since the start" if silent else ""
    return f"over the last minute{others}"


def _wanted(status: Mapping[str, Any]) -> str:
    replica_range = ReplicaRange(min=status["min"], max=status["max"])
    return f"{status['target']} of {replica_range}" if status["autoscaling"] else str(replica_range)


def _replicas_of(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """Kind -> ids of its replicas, those outside of Serve too."""
    found = {
        kind: [it["replica_id"] for it in status["replicas"]]
        for kind, status in content["kinds"].items()
    }
    for group, status in [*content["retiring"].items(), *content["unrecorded"].items()]:
        found.setdefault(kind_of(group), []).extend(it["replica_id"] for it in status["replicas"])
    for each in content["outside"]:
        found.setdefault(each["kind"], []).append(each["replica_id"])
    return found


def _autoscaled(kinds: Mapping[str, Any]) -> Iterator[str]:
    for kind, status in kinds.items():
        if status["autoscaling"]:
            scaling = ScalingTarget(**status["autoscaling"])
            yield (
                f"{kind}: autoscaled between {status['min']} and {status['max']}, to wait "
                f"{scaling.target_queue_s * 1e3:g} ms; idle after {scaling.idle_s:g} s"
            )


def _problems(kinds: Mapping[str, Any]) -> Iterator[str]:
    for kind, status in kinds.items():
        if status["problem"]:
            yield f"{kind}: a replica does not start: {status['problem']}"


def _cells(now: ReplicaStats | None, before: ReplicaStats | None) -> tuple[str, str, str, str]:
    if now is None:
        return ("", "", "", "")
    seen = rates(now, before)
    return (
        f"{seen.requests_per_s:.1f}",
        f"{seen.positions_per_s:.0f}",
        f"{seen.queue_s * 1e3:.1f} ms",
        f"{now.gauges.get('in_flight', 0.0):.0f}",
    )
