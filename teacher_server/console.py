"""Options and output of the commands in main.py."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from teacher_server.autoscaling import Bounds, Pace
from teacher_server.deployment import KINDS
from teacher_server.directory import fetch_fleet
from teacher_server.fleet import PROBE_S, fleet_status
from teacher_server.local_cluster import FleetState

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
    status.add_argument("--json", action="store_true")
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
    """Show the fleet on stdout: kinds, replicas, endpoints and their state."""
    try:
        endpoints = fetch_fleet(state.directory, PROBE_S, state.security)
        addresses = {it.replica_id: it.address for it in endpoints}
        directory_state = "RUNNING"
    except OSError:
        addresses, directory_state = {}, "UNREACHABLE"
    statuses = fleet_status()
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
                    }
                    for replica_id, (replica_state, pid) in sorted(status.replicas.items())
                ],
            }
            for kind, status in statuses.items()
            if kind in KINDS
        },
    }
    if as_json:
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
    else:
        _print_tables(content)


def _print_tables(content: Mapping[str, Any]) -> None:
    table = Table("kind", "wanted", "state", "replica", "pid", "endpoint")
    for kind, status in content["kinds"].items():
        bounds = Bounds(least=status["min"], most=status["max"])
        rows = status["replicas"] or [{"state": "", "replica_id": "", "pid": "", "address": ""}]
        for row in rows:
            table.add_row(
                kind,
                f"{status['target']} of {bounds}" if status["autoscaling"] else str(bounds),
                row["state"] or status["state"],
                row["replica_id"],
                str(row["pid"]),
                row["address"] or "not announced",
            )
    console = Console()
    console.print(table)
    for kind, status in content["kinds"].items():
        if status["autoscaling"]:
            pace = Pace(**status["autoscaling"])
            console.print(
                f"{kind}: autoscaled between {status['min']} and {status['max']}, to wait "
                f"{pace.target_queue_s * 1e3:g} ms; idle after {pace.idle_s:g} s"
            )
    console.print(f"Directory  {content['directory']}  {content['directory_state']}")
    console.print(f"Ray        {content['ray_address']}")


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
