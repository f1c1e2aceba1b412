"""`logs [RUN]`: the log of a run, from its start, until it ends or Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from cluster.commands.cluster import Cluster
from cluster.commands.cluster_file import add_cluster_option
from cluster.commands.on_head import STUDENTS, name_or_newest, run_name
from trainer.common.errors import UnreachableError


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("logs", help="follow a run's log")
    add_cluster_option(parser)
    parser.add_argument("name", nargs="?", type=run_name, metavar="RUN", help="default: the newest")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Follow; the run's exit status."""
    cluster = Cluster(arguments.file)
    return follow(cluster, name_or_newest(cluster, arguments.name))


def follow(cluster: Cluster, name: str) -> int:
    """Show a run's log; its exit status, or 0 if Ctrl-C leaves it to itself."""
    try:
        return cluster.show([*STUDENTS, "follow", "--name", name])
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\nleft {name} to itself: `python -m cluster logs {name}` follows it again, `python "
            f"-m cluster stop {name}` ends it\n"
        )
        return 0
    except UnreachableError as error:
        raise UnreachableError(
            f"{error} The run goes on without this command: python -m cluster logs {name}"
        ) from error
