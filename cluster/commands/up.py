"""`up FILE`: Ray's launcher, from a file that was checked first."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster.aws.check import check
from cluster.aws.roles import AWS
from cluster.aws.schema import check_schema
from cluster.aws.ssh_key import laptop_key
from cluster.commands.cluster import Cluster
from cluster.commands.cluster_file import add_file
from cluster.commands.on_head import HEAD
from cluster.machines.check import check_machines
from trainer.common.command import number
from trainer.common.errors import MachineError

AUTOSCALER_V2 = "RAY_UP_enable_autoscaler_v2"
MAX_HOURS = 8760.0
LOOK_S = 30.0


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("up", help="start the cluster, or bring it up to date")
    add_file(parser)
    parser.add_argument(
        "--max-hours", type=number(0.01, MAX_HOURS), help="end the cluster after this time"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the file, say what an hour costs, and end"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Start the cluster, from a file that can be started."""
    cluster = Cluster(arguments.file)
    for line in checked(cluster, is_dry=arguments.dry_run):
        print(line, flush=True)
    if arguments.dry_run:
        return 0
    launch(cluster)
    hours = arguments.max_hours
    cluster.answer([*HEAD, "watch", *(["--hours", str(hours)] if hours else [])])
    return 0


def checked(cluster: Cluster, *, is_dry: bool) -> list[str]:
    """What can be said of the file, and of account or machines, before anything is started.

    Raises:
        UserError: if it cannot be started.
    """
    file = cluster.file
    if file.provider["type"] == AWS:
        lines = check(file.path, file.config, is_dry=is_dry)
        if not is_dry:
            laptop_key(file.path, file.config)
        return lines
    check_schema(file.path, file.config)
    if not file.is_local:
        return [f"{file.path}: cluster {file.name}, of a provider that is not looked at"]
    look_at_machines(cluster)
    return [f"{file.path}: cluster {file.name}, of {1 + len(cluster.workers())} machines"]


def look_at_machines(cluster: Cluster) -> None:
    """Raise InputError with a line for each fault of the machines that the file names."""
    shells = {shell.address: shell for shell in (cluster.head, *cluster.workers())}
    check_machines(
        cluster.file.config, lambda address, probe: shells[address].probe(probe, timeout_s=LOOK_S)
    )


def launch(cluster: Cluster) -> None:
    """Run `ray up`, and show what it says.

    Raises:
        MachineError: if it fails.
    """
    path = cluster.file.path
    program = Path(sys.executable).with_name("ray")
    # Said explicitly, or Ray explains its default each time.
    environment = {AUTOSCALER_V2: "1", **os.environ}
    done = subprocess.run([program, "up", "--yes", path], env=environment)
    if done.returncode:
        raise MachineError(
            f"the cluster {cluster.file.name} must start, got status {done.returncode} of ray up. "
            f"See above; python -m cluster down {path} ends what was started."
        )
