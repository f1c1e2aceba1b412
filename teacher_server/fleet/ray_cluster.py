"""The Ray cluster of a fleet: connect to it, and look at what it is and has."""

from __future__ import annotations

import logging
import os

import ray

from teacher_server.fleet.local_cluster import check_reachable, token_environment
from teacher_server.fleet.ray_private import (
    HEAD_RESOURCE,
    read_settings_again,
    serve_is_running,
)
from teacher_server.fleet.room import Room
from teacher_server.fleet.status import kinds_status
from trainer.common.errors import InputError
from trainer.security.addresses import is_loopback

NAMESPACE = "conkd"


def connect(address: str, auth_token_path: str = "") -> None:
    """Become a driver of the cluster; raises UnreachableError if it cannot be reached.

    Args:
        address: of the Ray cluster.
        auth_token_path: the token of a local cluster of ours; empty: as the environment says.
    """
    check_reachable(address)
    if auth_token_path:
        os.environ.update(token_environment(auth_token_path))
        # They were read before the cluster and its token existed.
        read_settings_again()
    ray.init(
        address=address,
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
        logging_level=logging.ERROR,
    )


def check_cluster(host: str) -> None:
    """Raise InputError if a fleet is up there, or its nodes could not reach each other."""
    found = list(kinds_status()) if serve_is_running() else []
    if found:
        raise InputError(
            f"no fleet must be up on the Ray cluster, got applications {', '.join(found)} there. "
            "Take it down where it was started, or with: serve shutdown"
        )
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    if is_loopback(host) and nodes > 1:
        raise InputError(
            f"--host must be reachable from the cluster's {nodes} nodes, got {host}. "
            "Give --host 0.0.0.0, with --tls and --token-file."
        )


def cluster_room() -> Room:
    """What the connected cluster has."""
    have = ray.cluster_resources()
    return Room(num_cpus=have.get("CPU", 0.0), num_gpus=int(have.get("GPU", 0)))


def head_address() -> str:
    """The address of the head node, where the Directory runs."""
    heads = [
        node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and HEAD_RESOURCE in node["Resources"]
    ]
    return heads[0] if heads else ray.util.get_node_ip_address()
