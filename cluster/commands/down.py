"""`down FILE`: ends the cluster, and leaves every host clean."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cluster.commands.clean_host import text
from cluster.commands.cloud_nodes import end_nodes
from cluster.commands.cluster import Cluster
from cluster.commands.cluster_file import add_file
from cluster.commands.on_head import answer_of
from cluster.commands.shell import Shell
from trainer.common.errors import InputError, MissingError, UnreachableError, UserError

# Longer than a host takes to end its processes (clean_host.py).
HOST_S = 60.0
HOSTS_AT_ONCE = 32


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("down", help="end the cluster; every host is clean after it")
    add_file(parser)
    parser.add_argument(
        "--force", action="store_true", help="also if runs go on, or were not pulled"
    )
    parser.add_argument("--workers-only", action="store_true", help="leave the head's machine")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """End the cluster.

    Raises:
        InputError: if a run would be lost; nothing is touched then.
        UnreachableError: at the end, with the hosts that were not reached.
    """
    cluster = Cluster(arguments.file)
    if not arguments.force:
        check_runs(cluster)
    if cluster.file.is_local:
        unclean = clean_hosts(cluster, workers_only=arguments.workers_only)
    else:
        unclean = end_machines(cluster, workers_only=arguments.workers_only)
    if unclean:
        raise UnreachableError(
            f"every host must be clean, got {len(unclean)} of which it is not known. Turn them on "
            "and run the same command again.",
            details=unclean,
        )
    _say(f"the cluster {cluster.file.name} is down")
    return 0


def check_runs(cluster: Cluster) -> None:
    """Refuse to end a cluster with runs that go on or that no laptop has.

    Raises:
        InputError: if there are some, or the head of a cloud, whose disk goes with it, does not
            answer.
    """
    try:
        runs = answer_of(cluster, "runs")
    except MissingError:
        return
    except UserError as error:
        if cluster.file.is_local:
            _say(f"runs could not be looked at: {error}")
            return
        raise InputError(
            f"the head must say whether runs were pulled, got: {error} --force ends the cluster "
            "all the same."
        ) from error
    lost = [
        f"{it['name']}: {'still training' if it['going'] else 'not pulled'}"
        for it in runs
        if it["going"] or not it["pulled"]
    ]
    if lost:
        raise InputError(
            f"runs must have ended and be pulled, got {len(lost)} that are not. Pull them: python "
            "-m cluster pull RUN DIR; or give --force.",
            details=lost,
        )


def clean_hosts(cluster: Cluster, *, workers_only: bool) -> list[str]:
    """Clean machines of one's own; a line for each that is not.

    The head's control plane goes first, as its autoscaler starts workers that are gone, and the
    head's files last, as the way to the workers may lead through it.
    """
    # On the head itself this command must see its end.
    spared = (os.getpid(),) if cluster.file.is_on_head else ()
    unclean = _clean([cluster.head], spared, files=False)
    unclean += _clean(cluster.workers(), spared=(), files=True)
    if not workers_only and not unclean_head(unclean, cluster.head):
        unclean += _clean([cluster.head], spared=(), files=True)
    return unclean


def unclean_head(unclean: Iterable[str], head: Shell) -> bool:
    """Whether the head is among the lines of hosts that are not clean."""
    return any(it.startswith(f"{head.address}: ") for it in unclean)


def _clean(shells: list[Shell], spared: Iterable[int], *, files: bool) -> list[str]:
    program = text(spared, files=files)
    with ThreadPoolExecutor(HOSTS_AT_ONCE) as pool:
        found = pool.map(lambda shell: _clean_one(shell, program, files=files), shells)
    return [line for line in found if line]


def _clean_one(shell: Shell, program: str, *, files: bool) -> str | None:
    """Why a host is not clean; None if it is."""
    try:
        done = json.loads(shell.script(program, timeout_s=HOST_S))
    except UserError as error:
        return f"{shell.address}: {error}"
    if done["left"]:
        return f"{shell.address}: still runs {', '.join(done['left'])}"
    if done["kept"]:
        return f"{shell.address}: still has {', '.join(done['kept'])}"
    if files:
        _say(f"{shell.address}: clean, {len(done['removed'])} files and folders removed")
    return None


def end_machines(cluster: Cluster, *, workers_only: bool) -> list[str]:
    """End the machines of a cloud; a line for each that is still there."""
    try:
        # Ray's own way leaves the autoscaler running where the head stays.
        _clean([cluster.head], (os.getpid(),) if cluster.file.is_on_head else (), files=False)
    except UserError as error:
        _say(f"the head could not be reached: {error}")
    return end_nodes(cluster.file, workers_only=workers_only)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
