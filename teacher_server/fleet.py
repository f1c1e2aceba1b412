"""The running fleet as the commands see it: deploy it, ask for its state, scale and remove it.

Everything here needs a connection to the Ray cluster.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray._raylet import Config  # pyright: ignore
from ray.serve._private.client import ServeControllerClient
from ray.serve._private.common import DeploymentID
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.context import _get_global_client

from teacher_server.autoscaling import Bounds, Pace, autoscaling_config
from teacher_server.deployment import (
    DEPLOYMENTS,
    KINDS,
    ReplicaOptions,
    app_name,
    teacher_app,
)
from teacher_server.directory import DIRECTORY_APP, HEAD_RESOURCE, directory_app, fetch_fleet
from teacher_server.local_cluster import FleetState, check_reachable, token_environment
from teacher_server.rpc import is_serving
from trainer.credentials import SecurityFiles, is_loopback

NAMESPACE = "conkd"
POLL_S = 0.25
PROBE_S = 2.0
REMOVE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class KindStatus:
    """What Serve says of one kind of teachers."""

    state: str
    """Serve's state of the application, e.g. RUNNING, DEPLOYING, UNHEALTHY, DEPLOY_FAILED."""
    message: str
    target: int
    bounds: Bounds
    """What the target may be: one number, or what autoscaling chooses from."""
    pace: Pace | None
    """What autoscaling goes by; None for a fixed number."""
    is_autoscaled: bool
    """Whether Serve's policy decides on the target, be it within bounds of one number."""
    replicas: dict[str, tuple[str, int]]
    """Replica id -> its state and process id (0 before it has one)."""


def fleet_status() -> dict[str, KindStatus]:
    """Serve's view of the Directory ("directory") and of each kind that is deployed."""
    found: dict[str, KindStatus] = {}
    # What `serve status` and the dashboard show, asked of the controller itself: a local cluster
    # runs without the dashboard.
    details = _client().get_serve_details()
    for name, app in details["applications"].items():
        for deployment in app["deployments"].values():
            if name == DIRECTORY_APP or name in map(app_name, KINDS):
                bounds, pace = _autoscaling_of(deployment)
                found[name.removeprefix("conkd-")] = KindStatus(
                    state=app["status"],
                    message=deployment["message"] or app["message"],
                    target=deployment["target_num_replicas"],
                    bounds=bounds,
                    pace=pace,
                    is_autoscaled="autoscaling_config" in deployment["deployment_config"],
                    replicas={
                        replica["replica_id"]: (replica["state"], replica.get("pid") or 0)
                        for replica in deployment["replicas"]
                    },
                )
    return found


def scale(state: FleetState, bounds: Mapping[str, Bounds], pace: Pace) -> None:
    """Ask for numbers of replicas, fixed or autoscaled; those that run and may stay go on running.

    Args:
        state: the fleet that is up.
        bounds: of each kind that is to change.
        pace: what autoscaled ones are scaled by.
    """
    _run(
        {
            app_name(kind): teacher_app(
                ReplicaOptions(**state.options[kind]),
                autoscaling=autoscaling_config(wanted, pace, first=None),
                batch_limits=dict(state.batch_limits),
                security=state.security,
            )
            for kind, wanted in bounds.items()
        }
    )
    _turn_off(bounds)


def serve_is_running() -> bool:
    """Whether the connected cluster has a Serve controller."""
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def connect(address: str, auth_token_path: str = "") -> None:
    """Become a driver of the cluster; raises ConnectionError if it cannot be reached.

    Args:
        address: of the Ray cluster.
        auth_token_path: the token of a local cluster of ours; empty: as the environment says.
    """
    check_reachable(address)
    if auth_token_path:
        os.environ.update(token_environment(auth_token_path))
        # Ray has read its settings when it was imported, before the cluster and its token existed.
        Config.initialize("")
    ray.init(
        address=address,
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
        logging_level=logging.ERROR,
    )


def check_cluster(host: str) -> None:
    """Raise ValueError if a fleet is up there, or its nodes could not reach each other."""
    found = [kind for kind in KINDS if serve_is_running() and kind in fleet_status()]
    if found:
        raise ValueError(
            f"no fleet must be up on the Ray cluster, got applications {', '.join(found)} there. "
            "Take it down where it was started, or with: serve shutdown"
        )
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    if is_loopback(host) and nodes > 1:
        raise ValueError(
            f"--host must be reachable from the cluster's {nodes} nodes, got {host}. "
            "Give --host 0.0.0.0, with --tls and --token-file."
        )


def check_room(state: FleetState, bounds: Mapping[str, Bounds]) -> None:
    """Raise ValueError if a local cluster, which cannot grow, has no room for the most replicas."""
    have = ray.cluster_resources().get("CPU", 0.0)
    need = sum(state.num_cpus[kind] * wanted.most for kind, wanted in bounds.items())
    if state.keeper_pid and need > have:
        raise ValueError(
            f"the replicas must fit the local cluster's {have:g} CPUs, got {need:g}. "
            "Start it with more (up --cluster-cpus) or with less for each replica (--num-cpus)."
        )


def head_address() -> str:
    """The address of the head node, where the Directory runs."""
    heads = [
        node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and HEAD_RESOURCE in node["Resources"]
    ]
    return heads[0] if heads else ray.util.get_node_ip_address()


def deploy(
    kinds: Sequence[ReplicaOptions],
    *,
    port: int,
    bounds: Mapping[str, Bounds],
    pace: Pace,
    batch_limits: dict[str, Any],
    security: SecurityFiles,
) -> None:
    """Start the Directory and the teachers; returns before they are ready.

    Of a kind that may have none one is started all the same: whether it can is known then.
    """
    # No proxies: requests reach the replicas' own gRPC servers.
    serve.start(proxy_location="Disabled")
    teachers = {it.kind: (DEPLOYMENTS[it.kind], app_name(it.kind)) for it in kinds}
    applications = {DIRECTORY_APP: directory_app(kinds[0].host, port, security, teachers)}
    for options in kinds:
        wanted = bounds[options.kind]
        applications[app_name(options.kind)] = teacher_app(
            options,
            autoscaling=autoscaling_config(wanted, pace, first=wanted.clip(1)),
            batch_limits=batch_limits,
            security=security,
        )
    _run(applications)
    _turn_off(bounds)


def wait_until_ready(
    bounds: Mapping[str, Bounds],
    state: FleetState,
    *,
    timeout_s: float,
    progress: Callable[[str], None],
) -> None:
    """Wait until exactly the target replicas run, are announced by the Directory and answer.

    The target of an autoscaled kind is what Serve's policy has decided by then.

    Raises:
        OSError: if one cannot start.
        TimeoutError: if it takes longer than timeout_s.
    """
    deadline_s = time.monotonic() + timeout_s
    said = ""
    while True:
        statuses = fleet_status()
        for kind, status in statuses.items():
            if status.state == "DEPLOY_FAILED":
                raise OSError(f"the {kind} must start, got: {last_line(status.message)}")
        targets = {
            kind: wanted.clip(statuses[kind].target if kind in statuses else wanted.least)
            for kind, wanted in bounds.items()
        }
        ready = {kind: _num_running(statuses.get(kind)) for kind in targets}
        line = ", ".join(f"{kind} {ready[kind]}/{targets[kind]}" for kind in targets) + " ready"
        if line != said:
            progress(line)
            said = line
        settled = all(
            kind in statuses and len(statuses[kind].replicas) == targets[kind] for kind in targets
        )
        if settled and ready == targets and _num_answering(state) == +Counter(targets):
            return
        if time.monotonic() > deadline_s:
            why = [status.message for status in statuses.values() if status.message]
            raise TimeoutError(
                f"the replicas must be ready within {timeout_s:g} s, got {ready} of "
                f"{targets}. {last_line(why[0]) if why else ''}"
            )
        time.sleep(POLL_S)


def remove(state: FleetState) -> None:
    """Stop the teachers, then the Directory, and Serve if it was not running before."""
    if not serve_is_running():
        return
    names = set(serve.status().applications)
    ours = [name for name in [*map(app_name, KINDS), DIRECTORY_APP] if name in names]
    # The teachers go together, and the Directory after them: it sees them leave.
    for name in ours[:-1]:
        serve.delete(name, _blocking=False)
    deadline_s = time.monotonic() + REMOVE_S
    while left := sorted(set(ours[:-1]) & set(serve.status().applications)):
        if time.monotonic() > deadline_s:
            raise TimeoutError(
                f"the teachers must be gone within {REMOVE_S:g} s, got {', '.join(left)} still "
                "there. Run `down` again."
            )
        time.sleep(POLL_S)
    for name in ours[-1:]:
        serve.delete(name)
    if state.owns_serve and not names - set(ours):
        serve.shutdown()


def last_line(text: str) -> str:
    """The last line of a traceback: what went wrong."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _num_running(status: KindStatus | None) -> int:
    return sum(state == "RUNNING" for state, _ in status.replicas.values()) if status else 0


def _num_answering(state: FleetState) -> Counter[str]:
    """Replicas of each kind that the Directory announces and that are in service."""
    try:
        endpoints = fetch_fleet(state.directory, PROBE_S, state.security)
    except OSError:
        return Counter()  # It is still starting.
    return Counter(it.kind for it in endpoints if is_serving(it.address, PROBE_S, state.security))


def _run(applications: Mapping[str, serve.Application]) -> None:
    serve.run_many(
        [
            serve.RunTarget(target, name=name, route_prefix=None, external_scaler_enabled=True)
            for name, target in applications.items()
        ],
        wait_for_applications_running=False,
    )


def _turn_off(bounds: Mapping[str, Bounds]) -> None:
    """Let no replica run of the kinds that may have none at all.

    Serve does not deploy a kind with 0 replicas, and wakes an autoscaled one whenever it is called.
    So it is deployed without autoscaling, and then set to 0 by the call behind Serve's external
    scaling API (POST .../deployments/NAME/scale).
    """
    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    for kind in [kind for kind, wanted in bounds.items() if wanted.most == 0]:
        # What was deployed counts from the controller's next turn on.
        while kind not in (known := fleet_status()) or known[kind].is_autoscaled:
            time.sleep(POLL_S)
        deployment_id = DeploymentID(name=DEPLOYMENTS[kind], app_name=app_name(kind))
        ray.get(controller.update_deployment_replicas.remote(deployment_id, 0))


def _autoscaling_of(deployment: Mapping[str, Any]) -> tuple[Bounds, Pace | None]:
    """The bounds of a deployment as Serve has it, and the pace of one that is not fixed."""
    scaled = deployment["deployment_config"].get("autoscaling_config")
    if scaled is None:
        return Bounds.of(deployment["target_num_replicas"]), None
    bounds = Bounds(least=scaled["min_replicas"], most=scaled["max_replicas"])
    return bounds, None if bounds.is_fixed else Pace(**scaled["policy"]["policy_kwargs"])


def _client() -> ServeControllerClient:
    client = _get_global_client()
    assert client is not None, "raises if Serve does not run"
    return client
