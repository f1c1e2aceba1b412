"""`stop [RUN]`: ends a run at once; started again, it goes on from its last checkpoint."""

from __future__ import annotations

import argparse
from typing import Any

from cluster.commands.cluster import Cluster
from cluster.commands.cluster_file import add_cluster_option
from cluster.commands.on_head import STUDENTS, name_or_newest, run_name


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("stop", help="end a run")
    add_cluster_option(parser)
    parser.add_argument("name", nargs="?", type=run_name, metavar="RUN", help="default: the newest")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """End the run; the status of the command on the head."""
    cluster = Cluster(arguments.file)
    name = name_or_newest(cluster, arguments.name)
    return cluster.show([*STUDENTS, "stop", "--name", name])
