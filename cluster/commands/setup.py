"""`setup FILE`: what an AWS account needs once; shown as a plan, then made."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from pathlib import Path
from typing import Any

from cluster.aws.parts import Step
from cluster.aws.roles import read_aws_file
from cluster.aws.schema import check_schema
from cluster.aws.session import connect
from cluster.aws.setup import Account, SetupOptions, is_done, open_account
from cluster.aws.storage import checked_storage
from cluster.commands.cluster_file import add_file, read_cluster_file
from trainer.common.errors import InputError

YES = ("y", "yes")


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("setup", help="once an AWS account: what a cluster needs there")
    add_file(parser)
    parser.add_argument(
        "--shared",
        type=_storage,
        metavar="WHAT",
        help="the shared folder: efs (a file system that is made; the default), head (the head's "
        "disk, lost with it), or ADDRESS:/PATH of a server for NFS 4",
    )
    parser.add_argument(
        "--image", metavar="IMAGE", help="ami-..., or a parameter that holds such an id"
    )
    parser.add_argument(
        "--ssh-from", type=_network, metavar="CIDR", help="addresses that may log in (default: all)"
    )
    parser.add_argument(
        "--new-secrets", action="store_true", help="new certificates and tokens for all nodes"
    )
    parser.add_argument("--remove", action="store_true", help="remove what setup made")
    parser.add_argument(
        "--with-data", action="store_true", help="with --remove: also a file system with data"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show the plan, ask, and carry it out.

    Raises:
        InputError: if nobody agrees, or nodes or data are in the way of --remove.
        MachineError: if AWS refuses; what was done is kept, and the same command goes on.
    """
    if arguments.with_data and not arguments.remove:
        raise InputError("--with-data must come with --remove, got no --remove. Leave it out.")
    cluster = read_cluster_file(arguments.file)
    check_schema(cluster.path, cluster.config)
    file = read_aws_file(cluster.path, cluster.config)
    options = SetupOptions(
        shared=arguments.shared,
        image=arguments.image,
        ssh_from=arguments.ssh_from,
        new_secrets=arguments.new_secrets,
    )
    account = open_account(connect(file.region), file, options, ssh_folder=Path.home() / ".ssh")
    steps = _plan(account, arguments)
    print(f"account {account.aws.account}, region {file.region}:")
    for step in steps:
        print(f"  {step.text}")
    if is_done(steps):
        print("nothing to do")
        return 0
    if not arguments.yes:
        _ask()
    account.carry_out(steps, lambda line: print(line, flush=True))
    return 0


def _plan(account: Account, arguments: argparse.Namespace) -> list[Step]:
    if not arguments.remove:
        return account.plan()
    account.check_removal(with_data=arguments.with_data)
    return account.plan_removal()


def _ask() -> None:
    print("do this? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline().strip()
    if answer.lower() not in YES:
        raise InputError(
            f"the plan must be agreed to, got {answer or 'no answer'}. Nothing was done."
        )


def _storage(text: str) -> str:
    try:
        return checked_storage(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(_rule(error)) from error


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"must be addresses like 203.0.113.7/32, got {text}"
        ) from error


def _rule(error: InputError) -> str:
    return str(error).removeprefix("--shared ").partition(". ")[0]
