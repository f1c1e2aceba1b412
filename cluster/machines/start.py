"""Starts Ray on this machine, unless it runs already with the same settings.

    python -m cluster.machines.start ray start --head --port=6379 ...
    python -m cluster.machines.start ray start --address=HEAD:6379

For the start commands of a cluster's file, in the place of `ray stop` and `ray start`: `ray up`
runs them each time, and so does the autoscaler for a machine that was away. Settings are the
command, Ray's variables (RAY_*) and Ray's version. Where one has changed, Ray is stopped first.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from cluster.machines.ray_private import alive_instances
from trainer.common.atomic import write_text
from trainer.common.cli import run_main
from trainer.common.errors import InputError, MachineError

RECORD = Path("~/.ray/started.json")
RAYLET = "raylet"
INSTANCE, HEAD = "RAY_CLOUD_INSTANCE_ID", "RAY_HEAD_IP"
PORT = 6379
# Not written down. With another token Ray does not answer here, and is started again.
SECRETS = ("RAY_AUTH_TOKEN",)
STOP_S = 90.0


def main(argv: list[str]) -> None:
    """Start Ray, or leave it as it is."""
    if argv[:2] != ["ray", "start"]:
        raise InputError(f"The command must begin with `ray start`, got {argv}.")
    settings = settings_of(argv, os.environ)
    record = RECORD.expanduser()
    if runs_here(os.environ):
        if record.is_file() and record.read_text() == settings:
            print("Ray runs here already, with the same settings; it is left as it is.")
            return
        print("Ray runs here with other settings; it is started again.")
    program = Path(sys.executable).with_name("ray")
    subprocess.run((program, "stop"), check=False, timeout=STOP_S)
    done = subprocess.run((program, *argv[1:]), check=False)
    if done.returncode:
        raise MachineError(f"`ray start` must end with 0, got {done.returncode}. See above.")
    write_text(record, settings)


def settings_of(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    """All that Ray is started with here, as text."""
    variables = {
        it: value
        for it, value in environment.items()
        if it.startswith("RAY_") and it not in SECRETS
    }
    content = {
        "ray": importlib.metadata.version("ray"),
        "command": list(argv),
        "variables": variables,
    }
    return json.dumps(content, indent=2, sort_keys=True)


def runs_here(environment: Mapping[str, str]) -> bool:
    """Whether a raylet runs on this machine and the control plane holds it for alive.

    The control plane alone may hold a machine for alive that was just started again, and a raylet
    alone may not know yet that it was given up.
    """
    own = environment.get(INSTANCE)
    if own is None:
        raise InputError(f"{INSTANCE} must be set, as Ray's launcher does, got none.")
    if not any(it.info["name"] == RAYLET for it in psutil.process_iter(["name"])):
        return False
    address = f"{environment.get(HEAD) or _address(own)}:{PORT}"
    try:
        return own in alive_instances(address)
    except MachineError as error:
        print(error)
        return False


def _address(own: str) -> str:
    """The head's address here, on the head: machines are named by theirs, those of a cloud not."""
    try:
        return socket.gethostbyname(own)
    except OSError:
        from ray.util import get_node_ip_address

        return get_node_ip_address()


if __name__ == "__main__":
    run_main(main)
