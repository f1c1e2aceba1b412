"""`teachers ACTION ...`: the fleet's own commands on the head, with what it knows filled in."""

from __future__ import annotations

import argparse
from typing import Any

from cluster.commands.cluster import Cluster
from cluster.commands.cluster_file import add_cluster_option, file_and_rest
from cluster.commands.on_head import HEAD
from cluster.head.fleet import checked

ACTIONS = ("up", "scale", "roll", "status", "down")


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("teachers", help="start, scale, replace, show and stop teachers")
    add_cluster_option(parser)
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help="|".join(ACTIONS))
    parser.add_argument(
        "options",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="as of python -m teacher_server; up: KIND=COUNT or KIND=MIN..MAX, comma-separated",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The fleet's command on the head; its status."""
    file, options = file_and_rest(arguments)
    command = checked([arguments.action, *options])
    return Cluster(file).show([*HEAD, "teachers", *command])
