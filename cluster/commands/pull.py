"""`pull RUN DIR`: a run's folder to the laptop, compared; `down` remembers that it is there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cluster.commands.cluster import Cluster
from cluster.commands.cluster_file import add_cluster_option
from cluster.commands.copying import copy_down
from cluster.commands.on_head import answer_of, run_name
from cluster.head.digests import digests
from trainer.common.atomic import write_text
from trainer.common.errors import InputError, MachineError

MARK = ".conkd-run"
"""File that says which run a folder on the laptop is of."""


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("pull", help="take a run's folder home")
    add_cluster_option(parser)
    parser.add_argument("name", type=run_name, metavar="RUN")
    parser.add_argument("folder", type=Path, metavar="DIR", help="becomes the run's folder")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Copy, compare, and tell the cluster."""
    check_folder(arguments.folder, arguments.name)
    pull(Cluster(arguments.file), arguments.name, arguments.folder)
    return 0


def check_folder(folder: Path, name: str) -> None:
    """Raise InputError if there are files that are not of an earlier pull: they would be lost."""
    if folder.is_dir():
        mark = folder / MARK
        of = mark.read_text().strip() if mark.is_file() else ""
        if of == name or not any(folder.iterdir()):
            return
        raise InputError(
            f"DIR must be new, empty or an earlier pull of {name}, got {folder} with "
            f"{f'the run {of}' if of else 'other files'}. Name another one."
        )
    if folder.exists():
        raise InputError(f"DIR must be a folder or new, got the file {folder}. Name another one.")


def pull(cluster: Cluster, name: str, folder: Path) -> None:
    """Copy a run's files until they are those of the cluster.

    Raises:
        MachineError: if they differ, and not because the run goes on.
    """
    write_text(folder / MARK, f"{name}\n")
    for exact in (False, True):
        offer = answer_of(cluster, "outgoing", name)
        copy_down(cluster.head, offer["folder"], folder, kept=MARK, exact=exact)
        here = digests(folder)
        wrong = [it for it, digest in offer["digests"].items() if here.get(it) != digest]
        if not wrong and answer_of(cluster, "pulled", name, offer["fingerprint"])["whole"]:
            sys.stdout.write(
                f"{name}: {len(offer['digests'])} files in {folder}, digests compared\n"
            )
            return
    if offer["going"]:
        sys.stdout.write(
            f"{name}: copied to {folder}, and still training. Pull again when it has ended\n"
        )
        return
    raise MachineError(
        f"{name} must arrive as it is there, got {len(wrong)} files that differ. Nothing may write "
        "into either folder meanwhile.",
        details=wrong[:10],
    )
