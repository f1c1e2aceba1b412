"""The Ray cluster of a fleet: connect to it, and look at what it is and has."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping

import ray

from teacher_server.fleet.local_cluster import FleetState, check_reachable, token_environment
from teacher_server.fleet.offers import Offers, read_offers
from teacher_server.fleet.ray_private import (
    HEAD_RESOURCE,
    cluster_id,
    free_by_node,
    keep_stdout,
    read_settings_again,
    serve_is_running,
    stay_on_loopback,
)
from teacher_server.fleet.room import Room
from teacher_server.fleet.status import kinds_status
from trainer.common.errors import InputError, MachineError, UnreachableError
from trainer.security.addresses import host_of, is_loopback

NAMESPACE = "conkd"
VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


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
        if is_loopback(host_of(address)):
            stay_on_loopback()
    keep_stdout()
    try:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise UnreachableError(
            f"a Ray cluster must be reachable at {address}, got: {error}. Start it, or leave "
            "--address and RAY_ADDRESS out to start one on this machine."
        ) from error
    except RuntimeError as error:
        raise _other_version(address, str(error)) or error from error


def _other_version(address: str, message: str) -> MachineError | None:
    """Ray tells of both versions, the cluster's first, in an error of no class of its own."""
    versions = VERSIONS.findall(message)
    if "Version mismatch" not in message or len(versions) != 2:
        return None
    (its_ray, its_python), (our_ray, our_python) = versions
    return MachineError(
        f"the Ray cluster at {address} must run what runs here, Ray {our_ray} and Python "
        f"{our_python}, got Ray {its_ray} and Python {its_python}. Make both environments alike: "
        "Python to the patch level."
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


def offers() -> Offers:
    """What the nodes of the connected cluster have, and those that may come."""
    return read_offers([node["Resources"] for node in ray.nodes() if node["Alive"]])


def cluster_address() -> str:
    """Of the connected cluster, host:port, whatever named it."""
    return ray.get_runtime_context().gcs_address


def is_gone(state: FleetState) -> bool:
    """Whether the fleet of a record ran on another cluster than the one that is connected."""
    return bool(state.cluster_id) and state.cluster_id != cluster_id()


def free_resources() -> list[Mapping[str, float]]:
    """What nothing has taken on each node of the connected cluster, by Ray's names: CPU, GPU."""
    return [dict(free) for free in free_by_node().values()]


def head_address() -> str:
    """The address of the head node, where the Directory runs."""
    heads = [
        node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and HEAD_RESOURCE in node["Resources"]
    ]
    return heads[0] if heads else ray.util.get_node_ip_address()
