"""Options and output of the commands in main.py."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from protos.teacher_pb2 import ReplicaStats
from teacher_server.autoscaling import Bounds, Pace
from teacher_server.deployment import KINDS
from teacher_server.directory import fetch_fleet
from teacher_server.fleet import PROBE_S, fleet_status
from teacher_server.local_cluster import FleetState
from teacher_server.replica_rates import as_fields, fetch_all_stats, rates, scrape_targets

REPLICAS = "KIND=COUNT|KIND=MIN..MAX[,...]"
DEFAULT_FLEET = Path("runs/fleet.json")
RANGES: dict[str, tuple[float, float]] = {
    "port": (1, 65535),
    "threads": (1, 1024),
    "num_cpus": (0, 1024),
    "num_gpus": (0, 64),
    "token_budget": (1, 1 << 24),
    "cluster_cpus": (1, 4096),
    "object_store_mb": (80, 1 << 20),
    "timeout": (1, 86400),
    "target_queue_ms": (1, 600_000),
    "idle_s": (5, 86400),
    "days": (1, 3650),
    "watch": (0.2, 3600),
}


def parse(argv: list[str], runs: Mapping[str, Callable[[argparse.Namespace], None]]) -> Any:
    """The options of one command; `run` among them is what runs it."""
    parser = argparse.ArgumentParser(
        prog="python -m teacher_server", description="A fleet of frozen teachers behind gRPC."
    )
    commands = parser.add_subparsers(required=True, metavar="up|scale|status|down|certificates")
    up = commands.add_parser("up", help="start the fleet")
    up.set_defaults(run=runs["up"])
    _add_up_options(up)
    scale_to = commands.add_parser("scale", help="change the number of replicas of a kind")
    scale_to.set_defaults(run=runs["scale"])
    scale_to.add_argument("replicas", metavar=REPLICAS, help="a number, or autoscaling between two")
    status = commands.add_parser("status", help="kinds, replicas, endpoints and their state")
    status.set_defaults(run=runs["status"])
    shown = status.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true")
    shown.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=2.0,
        metavar="SECONDS",
        help="a table that refreshes, until Ctrl-C",
    )
    shown.add_argument(
        "--prometheus", action="store_true", help="where to scrape, as file_sd_configs wants it"
    )
    down = commands.add_parser("down", help="stop the fleet, and Ray if `up` started it")
    down.set_defaults(run=runs["down"])
    certificates = commands.add_parser("certificates", help="make a development set for --tls")
    certificates.set_defaults(run=runs["certificates"])
    certificates.add_argument("--output", type=Path, required=True, metavar="DIR")
    certificates.add_argument("--days", type=int, default=365, help="how long they are valid")
    for command in (up, scale_to, status, down):
        command.add_argument(
            "--fleet", type=Path, default=DEFAULT_FLEET, help="file that records what is up"
        )
    for command in (up, scale_to):
        command.add_argument("--timeout", type=float, default=300.0, help="seconds to be ready in")
        command.add_argument(
            "--target-queue-ms",
            type=float,
            help=f"autoscaling: wait before the device, default {Pace.target_queue_s * 1e3:g}",
        )
        command.add_argument(
            "--idle-s",
            type=float,
            help=f"autoscaling: down to MIN = 0 after so long unasked, default {Pace.idle_s:g}",
        )
    keep = commands.add_parser("keep")  # What `up` runs to own a local cluster; not for users.
    keep.set_defaults(run=runs["keep"])
    keep.add_argument("--num-cpus", type=int, required=True)
    keep.add_argument("--object-store-bytes", type=int, required=True)
    keep.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args(argv)
    _check_ranges(options)
    return options


def _check_ranges(options: argparse.Namespace) -> None:
    """ValueError for a number that no fleet can be started with."""
    for name, (lowest, highest) in RANGES.items():
        value = vars(options).get(name)
        if value is not None and not lowest <= value <= highest:
            raise ValueError(
                f"--{name.replace('_', '-')} must be in [{lowest}, {highest}], got {value}."
            )


def parse_bounds(text: str) -> dict[str, Bounds]:
    """Replicas of each kind, from "dialogue=0..4,recommendation=1"."""
    bounds: dict[str, Bounds] = {}
    for part in filter(None, text.split(",")):
        kind, _, count = part.partition("=")
        least, _, most = count.partition("..")
        if kind not in KINDS or not least.isdigit() or not (most or least).isdigit():
            raise ValueError(
                f"replicas must be KIND=COUNT or KIND=MIN..MAX with a kind of {', '.join(KINDS)} "
                f"and counts >= 0, got {part!r}."
            )
        bounds[kind] = Bounds(least=int(least), most=int(most or least))
    return bounds


def print_status(state: FleetState, *, as_json: bool) -> None:
    """Show the fleet on stdout: kinds, replicas, endpoints, their state and what they did."""
    content, stats = _look(state)
    if as_json:
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return
    Console().print(status_page(content, stats, {}))


def watch_status(state: FleetState, every_s: float) -> None:
    """The same again and again, with rates between one look and the next, until Ctrl-C."""
    console = Console()
    before: dict[str, ReplicaStats] = {}
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            content, stats = _look(state)
            page = status_page(content, stats, before)
            # What is written to a file or a pipe cannot be drawn over.
            if console.is_terminal:
                live.update(page, refresh=True)
            else:
                console.print(page)
            before = stats
            time.sleep(every_s)


def print_scrape_targets(state: FleetState) -> None:
    """Where a Prometheus finds the replicas, as JSON on stdout; needs the Directory alone.

    Raises:
        OSError: if the Directory does not answer.
        ValueError: if there are replicas, and none of them serves metrics.
    """
    addresses = {
        it.replica_id: it.address for it in fetch_fleet(state.directory, PROBE_S, state.security)
    }
    stats = fetch_all_stats(addresses, PROBE_S, state.security)
    targets = scrape_targets(stats.values())
    if stats and not targets:
        raise ValueError(
            f"the fleet must serve metrics, got {len(stats)} replicas without. "
            "Start it with up --metrics."
        )
    sys.stdout.write(json.dumps(targets, indent=2) + "\n")


def _look(state: FleetState) -> tuple[dict[str, Any], dict[str, ReplicaStats]]:
    """What Serve, the Directory and the replicas say now; the latter by replica id."""
    try:
        endpoints = fetch_fleet(state.directory, PROBE_S, state.security)
        addresses = {it.replica_id: it.address for it in endpoints}
        directory_state = "RUNNING"
    except OSError:
        addresses, directory_state = {}, "UNREACHABLE"
    stats = fetch_all_stats(addresses, PROBE_S, state.security)
    content: dict[str, Any] = {
        "directory": state.directory,
        "directory_state": directory_state,
        "ray_address": state.ray_address,
        "keeper_pid": state.keeper_pid,
        "kinds": {
            kind: {
                "state": status.state,
                "target": status.target,
                "min": status.bounds.least,
                "max": status.bounds.most,
                "autoscaling": dataclasses.asdict(status.pace) if status.pace else None,
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
            for kind, status in fleet_status().items()
            if kind in KINDS
        },
    }
    return content, stats


def status_page(
    content: Mapping[str, Any], now: Mapping[str, ReplicaStats], before: Mapping[str, ReplicaStats]
) -> Group:
    """A table of all replicas and a line for what they are reached by."""
    table = Table("kind", "wanted", "state", "replica", "pid", "endpoint")
    for name in ("requests/s", "positions/s", "queue", "in flight"):
        table.add_column(name, justify="right")
    for kind, status in content["kinds"].items():
        bounds = Bounds(least=status["min"], most=status["max"])
        rows = status["replicas"] or [{"state": "", "replica_id": "", "pid": "", "address": ""}]
        for row in rows:
            stats = now.get(row["replica_id"])
            table.add_row(
                kind,
                f"{status['target']} of {bounds}" if status["autoscaling"] else str(bounds),
                row["state"] or status["state"],
                row["replica_id"],
                str(row["pid"]),
                row["address"] or "not announced",
                *_cells(stats, before.get(row["replica_id"])),
            )
    since = "between the last two looks" if before else "since the start of each replica"
    return Group(
        table,
        *_autoscaled(content["kinds"]),
        f"Directory  {content['directory']}  {content['directory_state']}",
        f"Ray        {content['ray_address']}",
        f"Rates      {since}",
    )


def _autoscaled(kinds: Mapping[str, Any]) -> Iterator[str]:
    for kind, status in kinds.items():
        if status["autoscaling"]:
            pace = Pace(**status["autoscaling"])
            yield (
                f"{kind}: autoscaled between {status['min']} and {status['max']}, to wait "
                f"{pace.target_queue_s * 1e3:g} ms; idle after {pace.idle_s:g} s"
            )


def _cells(now: ReplicaStats | None, before: ReplicaStats | None) -> tuple[str, str, str, str]:
    if now is None:
        return ("", "", "", "")
    seen = rates(now, before)
    return (
        f"{seen.requests_per_s:.1f}",
        f"{seen.positions_per_s:.0f}",
        f"{seen.queue_s * 1e3:.1f} ms",
        str(now.in_flight),
    )


def _add_up_options(up: argparse.ArgumentParser) -> None:
    up.add_argument("--dialogue", type=Path, metavar="DIR", help="frozen dialogue teacher")
    up.add_argument("--recommendation", type=Path, metavar="DIR", help="frozen recommender")
    up.add_argument(
        "--replicas", default="", metavar=REPLICAS, help="or autoscaling; default: 1 of each"
    )
    up.add_argument("--port", type=int, default=50051, help="of the Directory")
    up.add_argument("--host", default="127.0.0.1", help="address to listen on")
    up.add_argument(
        "--tls", type=Path, metavar="DIR", help="folder with ca.pem, server.* and client.*"
    )
    up.add_argument("--token-file", type=Path, metavar="FILE", help="what every caller must bear")
    up.add_argument(
        "--insecure",
        action="store_true",
        help="allow a host beyond this machine without --tls and --token-file",
    )
    up.add_argument(
        "--metrics",
        nargs="?",
        const="127.0.0.1",
        default="",
        metavar="HOST",
        help="serve Prometheus metrics of every replica there; default: this machine alone",
    )
    up.add_argument(
        "--spans", default="", metavar="URL", help="OTLP/HTTP receiver of OpenTelemetry spans"
    )
    up.add_argument("--address", help="Ray cluster; default: RAY_ADDRESS, or a new local one")
    up.add_argument("--threads", type=int, default=1, help="torch threads of a replica")
    up.add_argument("--num-cpus", type=float, default=0.5, help="CPUs of a replica, for placement")
    up.add_argument("--num-gpus", type=float, help="default: 1 if the cluster has GPUs")
    up.add_argument("--token-budget", type=int, default=4096, help="tokens of a device batch")
    up.add_argument(
        "--cluster-cpus",
        type=int,
        default=max(4, os.cpu_count() or 1),
        help="CPUs of a new local cluster, for placement",
    )
    up.add_argument("--object-store-mb", type=int, default=120, help="of a new local cluster")
