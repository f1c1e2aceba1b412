"""`status`: nodes, runs and teachers of the cluster, on one screen or as JSON."""

from __future__ import annotations

import argparse
from typing import Any

from cluster.commands.cluster import Cluster
from cluster.commands.cluster_file import add_cluster_option
from cluster.commands.on_head import HEAD


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("status", help="nodes, runs and teachers")
    add_cluster_option(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show; the status of the command on the head."""
    shown = ["--json"] if arguments.json else []
    return Cluster(arguments.file).show([*HEAD, "status", *shown])
