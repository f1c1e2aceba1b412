"""Deploys the fleet on a connected Ray cluster, waits for it, scales it and removes it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from ray import serve
from ray.serve.config import AutoscalingConfig

from teacher_server.fleet.autoscaling import autoscaling_config, retiring_config
from teacher_server.fleet.deployment import (
    ReplicaOptions,
    app_name,
    deployment_name,
    teacher_app,
)
from teacher_server.fleet.directory import DIRECTORY_APP, directory_app
from teacher_server.fleet.directory_server import fetch_fleet
from teacher_server.fleet.local_cluster import FleetState
from teacher_server.fleet.ray_private import serve_is_running, set_num_replicas
from teacher_server.fleet.scaling import ReplicaRange, ScalingTarget
from teacher_server.fleet.status import FAILED, KindStatus, fleet_status, last_line
from teacher_server.replica.rpc import is_serving
from trainer.common.errors import MachineError
from trainer.security.addresses import port_of

POLL_S = 0.25
PROBE_S = 2.0
REMOVE_S = 30.0
# For the controller's next turn.
TAKE_IN_S = 60.0


def scale(state: FleetState, ranges: Mapping[str, ReplicaRange], scaling: ScalingTarget) -> None:
    """Set the number of replicas, fixed or autoscaled, without a restart of those that may stay.

    Args:
        state: the fleet that is up.
        ranges: of each group that changes.
        scaling: the targets of autoscaled kinds.
    """
    _run(
        {
            app_name(group): _teacher_app(state, group, _autoscaling(state, group, wanted, scaling))
            for group, wanted in ranges.items()
        }
    )
    _turn_off(ranges)


def replace(
    state: FleetState, group: str, wanted: ReplicaRange, scaling: ScalingTarget, *, has_surge: bool
) -> None:
    """Have Serve replace the replicas of a group one by one, if their version is not the state's.

    Returns before any is replaced. A group that is off has none: the next `scale` starts its own.

    Args:
        state: the fleet as it shall be.
        group: whose replicas.
        wanted: the group's range.
        scaling: the targets of autoscaled kinds, which stay.
        has_surge: start a new one before an old one stops, which needs room for one more.
    """
    autoscaling = _autoscaling(state, group, wanted, scaling)
    if autoscaling is not None:
        app = _teacher_app(state, group, autoscaling, has_surge=has_surge)
        _run({app_name(group): app})


def start_beside(
    state: FleetState, group: str, wanted: ReplicaRange, scaling: ScalingTarget, *, first: int
) -> None:
    """Start a further group of replicas, or have more of one; returns before they are ready.

    Args:
        state: the fleet as it shall be.
        group: of the state.
        wanted: the group's range, of one at least.
        scaling: the targets of autoscaled kinds.
        first: replicas that a new group starts with.
    """
    autoscaling = autoscaling_config(wanted, scaling, first=first)
    _run({app_name(group): _teacher_app(state, group, autoscaling)})
    _wait_for_serve(lambda: group in fleet_status(), group)


def remove_group(group: str) -> None:
    """Stop the replicas of a group, if Serve has it, and wait for their end.

    Raises:
        MachineError: if they have not ended within Serve's own deadline.
    """
    if app_name(group) not in serve.status().applications:
        return
    try:
        serve.delete(app_name(group))
    except TimeoutError as error:
        raise MachineError(
            f"the {group} replicas must end in time, got: {error} Serve goes on with it: roll "
            "again when `status` does not show them any more."
        ) from error


def replace_directory(state: FleetState) -> None:
    """Have Serve start the Directory anew; returns before it does."""
    _run({DIRECTORY_APP: _directory_app(state, port_of(state.directory))})


def deploy(
    state: FleetState, ranges: Mapping[str, ReplicaRange], scaling: ScalingTarget, *, port: int
) -> None:
    """Start the Directory and the teachers; returns before they are ready.

    A kind whose minimum is 0 starts with one replica, which shows whether it can start.

    Args:
        state: the fleet to start.
        ranges: of each of its kinds.
        scaling: the targets of autoscaled kinds.
        port: of the Directory.
    """
    # No proxies: requests reach the replicas' own gRPC servers.
    serve.start(proxy_location="Disabled")
    applications = {DIRECTORY_APP: _directory_app(state, port)}
    for kind, wanted in ranges.items():
        autoscaling = autoscaling_config(wanted, scaling, first=wanted.clip(1))
        applications[app_name(kind)] = _teacher_app(state, kind, autoscaling)
    _run(applications)
    _turn_off(ranges)


def wait_until_ready(
    ranges: Mapping[str, ReplicaRange],
    state: FleetState,
    *,
    timeout_s: float,
    progress: Callable[[str], None],
) -> None:
    """Wait until exactly the target replicas run, are announced by the Directory and answer.

    The target of an autoscaled kind is what Serve's policy has decided by then.

    Raises:
        MachineError: if one cannot start, or it takes longer than timeout_s.
    """
    deadline_s = time.monotonic() + timeout_s
    said = ""
    while True:
        statuses = fleet_status()
        _check_none_failed(statuses)
        targets = _targets(ranges, statuses)
        ready = {kind: _num_running(statuses.get(kind)) for kind in targets}
        is_settled = ready == targets and _has_exactly(targets, statuses)
        line = progress_line(ready, targets, is_settled=is_settled)
        if line != said:
            progress(line)
            said = line
        waited_for = {group: it for group, it in statuses.items() if group in targets}
        if is_settled and _num_answering(state, waited_for) == +Counter(targets):
            return
        if time.monotonic() > deadline_s:
            why = [status.message for status in statuses.values() if status.message]
            raise MachineError(
                f"the replicas must be ready within {timeout_s:g} s, got {ready} of "
                f"{targets}. {last_line(why[0]) if why else ''}"
            )
        time.sleep(POLL_S)


def progress_line(ready: Mapping[str, int], targets: Mapping[str, int], *, is_settled: bool) -> str:
    """What is there and what is waited for; it changes with the stages of a start."""
    counts = ", ".join(f"{kind} {ready[kind]}/{targets[kind]}" for kind in targets)
    if is_settled:
        return f"{counts} run: waiting for the Directory to list them"
    if any(ready[kind] < targets[kind] for kind in targets):
        return f"{counts} run: the others load their teacher"
    return f"{counts} run: waiting for the end of those that are too many"


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
            raise MachineError(
                f"the teachers must be gone within {REMOVE_S:g} s, got {', '.join(left)} still "
                "there. Run `down` again."
            )
        time.sleep(POLL_S)
    for name in ours[-1:]:
        serve.delete(name)
    if state.owns_serve and not names - set(ours):
        serve.shutdown()


def _autoscaling(
    state: FleetState, group: str, wanted: ReplicaRange, scaling: ScalingTarget
) -> AutoscalingConfig | None:
    """Serve's configuration of a group that runs; None: it is to be off."""
    if group in state.retiring:
        return retiring_config(wanted.max, state.retiring[group])
    return autoscaling_config(wanted, scaling, first=None)


def _teacher_app(
    state: FleetState,
    group: str,
    autoscaling: AutoscalingConfig | None,
    *,
    has_surge: bool = False,
) -> serve.Application:
    return teacher_app(
        ReplicaOptions(**state.options[group]),
        group=group,
        autoscaling=autoscaling,
        batch_limits=dict(state.batch_limits),
        security=state.security,
        version=state.version_of(group),
        has_surge=has_surge,
    )


def _directory_app(state: FleetState, port: int) -> serve.Application:
    teachers = {
        kind: (deployment_name(group), app_name(group)) for kind, group in state.current.items()
    }
    host = ReplicaOptions(**next(iter(state.options.values()))).host
    return directory_app(host, port, state.security, teachers, state.retiring_weights)


def _check_none_failed(statuses: Mapping[str, KindStatus]) -> None:
    for kind, status in statuses.items():
        if status.state == FAILED:
            raise MachineError(f"the {kind} must start, got: {last_line(status.message)}")


def _targets(
    ranges: Mapping[str, ReplicaRange], statuses: Mapping[str, KindStatus]
) -> dict[str, int]:
    """Target number of replicas of each kind, within its range."""
    return {
        kind: wanted.clip(statuses[kind].target if kind in statuses else wanted.min)
        for kind, wanted in ranges.items()
    }


def _has_exactly(targets: Mapping[str, int], statuses: Mapping[str, KindStatus]) -> bool:
    """Whether Serve has exactly the target of each kind: starting and stopping ones count."""
    return all(
        kind in statuses and len(statuses[kind].replicas) == targets[kind] for kind in targets
    )


def _num_running(status: KindStatus | None) -> int:
    return sum(state == "RUNNING" for state, _ in status.replicas.values()) if status else 0


def _num_answering(state: FleetState, statuses: Mapping[str, KindStatus]) -> Counter[str]:
    """Replicas of each group that the Directory announces and that are in service.

    Those of Serve alone: teachers of other makes come and go as they like.
    """
    try:
        endpoints = fetch_fleet(state.directory, PROBE_S, state.security)
    except OSError:
        return Counter()  # It is still starting.
    ours = {replica_id: group for group, it in statuses.items() for replica_id in it.replicas}
    return Counter(
        ours[it.replica_id]
        for it in endpoints
        if it.replica_id in ours and is_serving(it.address, PROBE_S, state.security)
    )


def _run(applications: Mapping[str, serve.Application]) -> None:
    serve.run_many(
        [
            serve.RunTarget(target, name=name, route_prefix=None, external_scaler_enabled=True)
            for name, target in applications.items()
        ],
        wait_for_applications_running=False,
    )


def _turn_off(ranges: Mapping[str, ReplicaRange]) -> None:
    """Stop all replicas of the kinds whose maximum is 0.

    Serve does not deploy a kind with 0 replicas, and wakes an autoscaled one whenever it is called.
    So it is deployed without autoscaling, and then set to 0.
    """
    for kind in [kind for kind, wanted in ranges.items() if wanted.max == 0]:
        _wait_for_serve(lambda kind=kind: _is_fixed(kind), kind)
        set_num_replicas(app_name(kind), deployment_name(kind), 0)


def _is_fixed(group: str) -> bool:
    known = fleet_status()
    return group in known and not known[group].is_autoscaled


def _wait_for_serve(has_it: Callable[[], bool], group: str) -> None:
    """Wait for the controller, which applies a deployment on its next turn.

    Raises:
        MachineError: if it does not.
    """
    deadline_s = time.monotonic() + TAKE_IN_S
    while not has_it():
        if time.monotonic() > deadline_s:
            raise MachineError(
                f"Ray Serve must take in the {group} within {TAKE_IN_S:g} s, got no sign of it. "
                "Look at Serve's controller in Ray's logs, then give the command again."
            )
        time.sleep(POLL_S)
