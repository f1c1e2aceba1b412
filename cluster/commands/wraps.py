"""`bench ...` on the head, and `capacity ...` here: programs of their own, by a shorter name."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from cluster.commands.cluster import Cluster
from cluster.commands.cluster_file import add_cluster_option, file_and_rest

CAPACITY = "capacity"


def add(commands: Any) -> None:
    """The options of both."""
    bench = commands.add_parser("bench", help="python -m cluster.bench on the cluster")
    add_cluster_option(bench)
    bench.add_argument("name", metavar="NAME", choices=("scaling",), help="scaling")
    bench.add_argument("options", nargs=argparse.REMAINDER, metavar="...")
    bench.set_defaults(run=_bench)
    # Here for --help alone.
    commands.add_parser(CAPACITY, help="python -m cluster.capacity: plan a cluster; needs none")


def _bench(arguments: argparse.Namespace) -> int:
    file, options = file_and_rest(arguments)
    options = ["--address", "auto", *options]
    return Cluster(file).show(["python", "-m", "cluster.bench", arguments.name, *options])


def capacity(argv: Sequence[str]) -> int:
    """Run the model on this machine; its status."""
    return subprocess.run([sys.executable, "-m", "cluster.capacity", *argv]).returncode
