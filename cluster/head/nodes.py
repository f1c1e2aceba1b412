"""The nodes of this head's Ray cluster, by what they are for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import yaml

from trainer.common.errors import MachineError, UnreachableError, first_line

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where Ray's launcher puts the cluster's file on the head."""
KINDS = ("head", "teacher", "student")


def connect() -> None:
    """Become a driver of this node's cluster.

    Raises:
        UnreachableError: if there is none.
        MachineError: if this node's token is not the cluster's.
    """
    import ray
    from ray.exceptions import AuthenticationError

    from teacher_server.fleet.ray_private import keep_stdout

    if ray.is_initialized():
        return
    keep_stdout()
    try:
        ray.init(
            address="auto",
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
        )
    except AuthenticationError as error:
        raise MachineError(
            "the head must have its cluster's token in ~/.ray/auth_token, got: "
            f"{first_line(error).partition('. ')[0]}. Make it: python -m cluster up FILE"
        ) from error
    except (ConnectionError, RuntimeError) as error:
        # A wrong token is no error of its own: Ray's client tries on until its time is over.
        raise UnreachableError(
            "Ray must run on the head, under the token in ~/.ray/auth_token, got: "
            f"{first_line(error).rstrip('.')}. Start it: python -m cluster up FILE"
        ) from error


def nodes_by_kind() -> dict[str, list[str]]:
    """Addresses of the nodes that are alive, by kind."""
    import ray

    connect()
    alive = [it for it in ray.nodes() if it["Alive"]]
    return {
        kind: sorted(it["NodeManagerAddress"] for it in alive if kind in it["Resources"])
        for kind in KINDS
    }


def head_address() -> str:
    """The head's address within the cluster.

    Raises:
        UnreachableError: if no node of the cluster is its head.
    """
    heads = nodes_by_kind()["head"]
    if not heads:
        raise UnreachableError(
            "a node must have Ray's resource `head`, got none. Its start command is in the "
            "cluster's file; run `python -m cluster up FILE` again."
        )
    return heads[0]


def has_gpus() -> bool:
    """Whether teachers may have GPUs here: a node has some, or a node type that may be started."""
    import ray

    connect()
    if any(it["Alive"] and it["Resources"].get("GPU") for it in ray.nodes()):
        return True
    return any(
        it.get("resources", {}).get("GPU") and it["resources"].get("teacher")
        for it in _bootstrap().get("available_node_types", {}).values()
    )


def _bootstrap() -> dict[str, Any]:
    path = BOOTSTRAP.expanduser()
    return yaml.safe_load(path.read_text()) if path.is_file() else {}
