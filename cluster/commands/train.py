"""`train`: a run as a job of the cluster, whose log follows; Ctrl-C leaves the run to itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cluster.commands.cluster import Cluster
from cluster.commands.cluster_file import add_cluster_option
from cluster.commands.logs import follow
from cluster.commands.on_head import HEAD, run_name
from cluster.head.shared import NAME_RULE, is_name
from trainer.common.command import whole
from trainer.common.errors import InputError
from trainer.common.text_files import read_text
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config

MAX_NODES = 4096
MAX_SLOTS = 64


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("train", help="distil a student on student nodes")
    add_cluster_option(parser)
    parser.add_argument("--nodes", type=whole(1, MAX_NODES), default=1, help="student nodes")
    parser.add_argument(
        "--min-nodes", type=whole(1, MAX_NODES), help="go on with so few; default: one"
    )
    parser.add_argument(
        "--slots", type=whole(1, MAX_SLOTS), help="ranks of a node; default: one for each GPU"
    )
    parser.add_argument(
        "--name", type=run_name, help="the run's; default: the last part of the setting `output`"
    )
    parser.add_argument("--detach", action="store_true", help="do not follow the log")
    parser.add_argument(
        "--down-after", action="store_true", help="end the cluster when the run has ended"
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Start the run, or find it, and follow it; its exit status."""
    name = checked_name(arguments)
    cluster = Cluster(arguments.file)
    text = read_text(arguments.config)
    sys.stderr.write(cluster.answer([*HEAD, *head_command(arguments, name)], stdin=text))
    if arguments.down_after:
        cluster.answer([*HEAD, "watch", "--after", name])
    if arguments.detach:
        return 0
    return follow(cluster, name)


def checked_name(arguments: argparse.Namespace) -> str:
    """The run's name, after all settings were checked here.

    Raises:
        UserError: if a setting is wrong, or the name cannot be one.
    """
    config = load_config(RunConfig, arguments.config, arguments.overrides)
    name = arguments.name or Path(config.output).name
    if not is_name(name):
        raise InputError(
            f"output must end in {NAME_RULE}, got {config.output}. Give the run a --name."
        )
    if (arguments.min_nodes or 1) > arguments.nodes:
        raise InputError(
            f"--min-nodes must be at most --nodes {arguments.nodes}, got {arguments.min_nodes}."
        )
    return name


def head_command(arguments: argparse.Namespace, name: str) -> list[str]:
    """The command of cluster.head that starts the run; the config goes along on stdin."""
    counts = {"--nodes": arguments.nodes, "--min-nodes": arguments.min_nodes}
    counts["--slots"] = arguments.slots
    given = [part for option, it in counts.items() if it for part in (option, str(it))]
    return ["train", "--name", name, *given, "--", *arguments.overrides]
