"""The running fleet as the commands change it: deploy it, wait for it, scale and remove it.

Everything here needs a connection to the Ray cluster.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

import ray
from ray import serve
from ray.serve._private.common import DeploymentID
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from teacher_server.fleet.autoscaling import Bounds, Pace, autoscaling_config
from teacher_server.fleet.deployment import (
    ReplicaOptions,
    app_name,
    deployment_name,
    teacher_app,
)
from teacher_server.fleet.directory import DIRECTORY_APP, directory_app
from teacher_server.fleet.directory_server import fetch_fleet
from teacher_server.fleet.local_cluster import FleetState
from teacher_server.fleet.status import KindStatus, fleet_status, last_line, serve_is_running
from teacher_server.replica.rpc import is_serving

POLL_S = 0.25
PROBE_S = 2.0
REMOVE_S = 30.0


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


def deploy(state: FleetState, bounds: Mapping[str, Bounds], pace: Pace, *, port: int) -> None:
    """Start the Directory and the teachers; returns before they are ready.

    Of a kind that may have none one is started all the same: whether it can is known then.

    Args:
        state: the fleet that is to be.
        bounds: of each of its kinds.
        pace: what autoscaled ones are scaled by.
        port: of the Directory.
    """
    # No proxies: requests reach the replicas' own gRPC servers.
    serve.start(proxy_location="Disabled")
    kinds = [ReplicaOptions(**options) for options in state.options.values()]
    teachers = {it.kind: (deployment_name(it.kind), app_name(it.kind)) for it in kinds}
    applications = {DIRECTORY_APP: directory_app(kinds[0].host, port, state.security, teachers)}
    for options in kinds:
        wanted = bounds[options.kind]
        applications[app_name(options.kind)] = teacher_app(
            options,
            autoscaling=autoscaling_config(wanted, pace, first=wanted.clip(1)),
            batch_limits=dict(state.batch_limits),
            security=state.security,
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
        _check_none_failed(statuses)
        targets = _targets(bounds, statuses)
        ready = {kind: _num_running(statuses.get(kind)) for kind in targets}
        line = ", ".join(f"{kind} {ready[kind]}/{targets[kind]}" for kind in targets) + " ready"
        if line != said:
            progress(line)
            said = line
        is_settled = ready == targets and _has_exactly(targets, statuses)
        if is_settled and _num_answering(state) == +Counter(targets):
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
    ours = [name for name in [*map(app_name, state.options), DIRECTORY_APP] if name in names]
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


def _check_none_failed(statuses: Mapping[str, KindStatus]) -> None:
    for kind, status in statuses.items():
        if status.state == "DEPLOY_FAILED":
            raise OSError(f"the {kind} must start, got: {last_line(status.message)}")


def _targets(bounds: Mapping[str, Bounds], statuses: Mapping[str, KindStatus]) -> dict[str, int]:
    """How many replicas of each kind there are to be, within what was asked for."""
    return {
        kind: wanted.clip(statuses[kind].target if kind in statuses else wanted.least)
        for kind, wanted in bounds.items()
    }


def _has_exactly(targets: Mapping[str, int], statuses: Mapping[str, KindStatus]) -> bool:
    """Whether Serve has exactly the target of each kind: starting and stopping ones count."""
    return all(
        kind in statuses and len(statuses[kind].replicas) == targets[kind] for kind in targets
    )


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
        deployment_id = DeploymentID(name=deployment_name(kind), app_name=app_name(kind))
        ray.get(controller.update_deployment_replicas.remote(deployment_id, 0))
