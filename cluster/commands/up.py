"""`up FILE`: Ray's launcher, from a file that was checked first."""

from __future__ import annotations

import argparse
from typing import Any

from cluster.commands.cluster import Cluster
from cluster.commands.cluster_file import add_file
from trainer.common.errors import MachineError, first_line


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("up", help="start the cluster, or bring it up to date")
    add_file(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Start the cluster."""
    launch(Cluster(arguments.file))
    return 0


def launch(cluster: Cluster) -> None:
    """What `ray up` does.

    Raises:
        MachineError: if Ray gives up; what it says is on the screen.
    """
    import click
    from ray.autoscaler.sdk import create_or_update_cluster

    try:
        create_or_update_cluster(str(cluster.file.path))
    except (click.ClickException, SystemExit, RuntimeError, OSError) as error:
        raise MachineError(
            f"the cluster {cluster.file.name} must start, got: {first_line(error)}. See above; "
            f"python -m cluster down {cluster.file.path} ends what was started."
        ) from error
