"""Before Ray starts on a node of EC2: its secrets, the shared folder, the watch for spot notices.

python -m cluster.aws.node [--head ADDRESS]

Which role the node has, EC2 says: the name of its instance profile names its secrets. The head is
started without --head. The shared folder goes where CONKD_SHARED says, to /shared without it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.aws.metadata import Metadata
from cluster.aws.mounting import export, mount_commands
from cluster.aws.parameters import HEAD, files_of, secret_parameter
from cluster.aws.secret_files import write_secret
from cluster.aws.session import aws_errors
from cluster.aws.spot import watch_commands
from trainer.common.cli import run_main
from trainer.common.command import CommandParser
from trainer.common.errors import MachineError

VARIABLE, SHARED = "CONKD_SHARED", "/shared"


@dataclass(frozen=True, kw_only=True)
class Node:
    """The machine: what EC2 says of it, its user's home, and how commands run on it."""

    metadata: Metadata
    home: Path
    run: Callable[[Sequence[str]], None]
    shared: Path = Path(SHARED)
    """Where the shared folder is mounted."""


def main(argv: list[str]) -> None:
    """Make the node ready for `ray start`."""
    parser = CommandParser(prog="python -m cluster.aws.node", description=__doc__)
    parser.add_argument("--head", metavar="ADDRESS", help="the head's; the head itself has none")
    arguments: argparse.Namespace = parser.parse_args(argv)
    shared = Path(os.environ.get(VARIABLE) or SHARED)
    node = Node(metadata=Metadata(), home=Path.home(), run=run_command, shared=shared)
    prepare(node, head=arguments.head)


def prepare(node: Node, *, head: str | None) -> None:
    """Write the secrets, mount the shared folder, watch for notices if the node is a spot one.

    Raises:
        MachineError: if EC2, the Parameter Store or a command refuses.
    """
    profile = node.metadata.require("iam/security-credentials/").strip()
    region = node.metadata.require("placement/region").strip()
    content = fetch(secret_parameter(profile), region)
    for path, text in files_of(content).items():
        write_secret(node.home / path, text)
    for command in _mounting(content["shared"], node.shared, head):
        node.run(command)
    if node.metadata.get("instance-life-cycle") == "spot":
        for command in watch_commands(node.home):
            node.run(command)


def fetch(parameter: str, region: str) -> dict[str, str]:
    """The content of a role's parameter; raises MachineError if this node may not read it."""
    import boto3

    with aws_errors(f"hand out {parameter}"):
        client = boto3.client("ssm", region_name=region)
        found = client.get_parameter(Name=parameter, WithDecryption=True)
    return json.loads(found["Parameter"]["Value"])


def _mounting(source: str, target: Path, head: str | None) -> list[list[str]]:
    """The commands that make the shared folder be there."""
    if source != HEAD:
        return mount_commands(source, target)
    if head is None:
        return export(target)
    return mount_commands(f"{head}:{target}", target)


def run_command(command: Sequence[str]) -> None:
    """Run a command; raises MachineError with the last line that it says if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise MachineError(f"{' '.join(command)} must succeed, got: {last}. See above.")


if __name__ == "__main__":
    run_main(main)
