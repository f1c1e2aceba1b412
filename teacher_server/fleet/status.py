"""The fleet as Ray Serve sees it: each kind's state, its target and its replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from teacher_server.fleet.deployment import app_name, deployment_name
from teacher_server.fleet.directory import DIRECTORY_APP
from teacher_server.fleet.groups import APP_PREFIX
from teacher_server.fleet.ray_private import serve_details
from teacher_server.fleet.scaling import ReplicaRange, ScalingTarget
from trainer.common.errors import MachineError

FAILED = "DEPLOY_FAILED"
# In Serve's message of a deployment until its replicas are there; the error follows.
STARTUP_FAILED = "failed to start"


@dataclass(frozen=True, kw_only=True)
class KindStatus:
    """Serve's view of one group of replicas."""

    state: str
    """Serve's state of the application, e.g. RUNNING, DEPLOYING, UNHEALTHY, DEPLOY_FAILED."""
    message: str
    target: int
    replica_range: ReplicaRange
    """The range of the target."""
    scaling: ScalingTarget | None
    """The targets of autoscaling; None for a fixed number."""
    is_autoscaled: bool
    """Whether Serve's policy decides on the target, even in a range of one number."""
    replicas: dict[str, tuple[str, int]]
    """Replica id -> its state and process id (0 before it has one)."""

    @property
    def has_ended(self) -> bool:
        """Whether there is no replica, and none is to be."""
        return not self.target and not self.replicas


def fleet_status() -> dict[str, KindStatus]:
    """Serve's view of the Directory ("directory") and of each group that is deployed."""
    found: dict[str, KindStatus] = {}
    for name, app in serve_details()["applications"].items():
        group = name.removeprefix(APP_PREFIX)
        for deployed, deployment in app["deployments"].items():
            if _is_ours(name, deployed):
                replica_range, scaling = _autoscaling_of(deployment)
                found[group] = KindStatus(
                    state=app["status"],
                    message=deployment["message"] or app["message"],
                    target=deployment["target_num_replicas"],
                    replica_range=replica_range,
                    scaling=scaling,
                    is_autoscaled="autoscaling_config" in deployment["deployment_config"],
                    replicas={
                        replica["replica_id"]: (replica["state"], replica.get("pid") or 0)
                        for replica in deployment["replicas"]
                    },
                )
    return found


def _is_ours(app: str, deployment: str) -> bool:
    """On a shared cluster an application of others may begin with our prefix too."""
    group = app.removeprefix(APP_PREFIX)
    return app == DIRECTORY_APP or (app != group and deployment == deployment_name(group))


def kinds_status() -> dict[str, KindStatus]:
    """The same of the groups of teachers alone."""
    statuses = fleet_status()
    return {group: it for group, it in statuses.items() if app_name(group) != DIRECTORY_APP}


def status_in(statuses: Mapping[str, KindStatus], group: str) -> KindStatus:
    """Serve's view of a group, or of the Directory; raises MachineError if it has none."""
    if group not in statuses:
        raise MachineError(
            f"Ray Serve must know the {group} of the fleet, got {', '.join(statuses) or 'none'}. "
            "Roll, which undoes what an interrupted roll has left; if it is missing then, too, "
            "take the fleet down and up."
        )
    return statuses[group]


def problem_of(status: KindStatus) -> str:
    """Why a replica of a kind does not start; empty if all do. Serve tries again and again."""
    return last_line(status.message) if STARTUP_FAILED in status.message else ""


def last_line(text: str) -> str:
    """The last line of a traceback: what went wrong."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _autoscaling_of(deployment: Mapping[str, Any]) -> tuple[ReplicaRange, ScalingTarget | None]:
    """The range of a deployment as Serve has it, and the targets of one that is not fixed."""
    scaled = deployment["deployment_config"].get("autoscaling_config")
    if scaled is None:
        return ReplicaRange.of(deployment["target_num_replicas"]), None
    replica_range = ReplicaRange(min=scaled["min_replicas"], max=scaled["max_replicas"])
    if replica_range.is_fixed:
        return replica_range, None
    targets = scaled["policy"]["policy_kwargs"]
    # Of replicas that retire none moves the number.
    return replica_range, ScalingTarget(**targets) if "idle_s" in targets else None
