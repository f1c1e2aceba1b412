"""All that the fleet uses of Ray beside its public API, each with the reason.

tests/unit/teacher_server/fleet/test_ray_private.py names what a new version has taken away; until
it passes there, pyproject.toml keeps that version out. What the cluster uses is in
cluster/machines/ray_private.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray._private import ray_constants, worker
from ray._private.state import available_resources_per_node
from ray._private.worker import global_worker
from ray._raylet import Config  # pyright: ignore

# Serve takes as long to import as Ray itself, and supervisors of students need none of it.
if TYPE_CHECKING:
    from ray.serve import Deployment
    from ray.serve._private.common import DeploymentID
    from ray.serve._private.deployment_scheduler import DeploymentScheduler

ChooseNode = Callable[
    [Mapping[str, float], Mapping[str, Mapping[str, float]], Sequence[str], Counter[str]],
    "str | None",
]
# Every cluster gives its head node this resource; there is no other way to place something there.
HEAD_RESOURCE = "node:__internal_head__"
# Ray gives a node its outward address, and replaces any 127.0.0.1 that it is told by it. The
# cluster is lost with that address (a VPN, a laptop that moves on). With this variable, meant for
# other systems than Linux, a node takes 127.0.0.1.
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
PRINT = worker.print_to_stdstream


def read_settings_again() -> None:
    """Take up Ray's variables of this process's environment, which it read at import."""
    Config.initialize("")


def stay_on_loopback() -> None:
    """Connect to a cluster at 127.0.0.1 by that address: what ON_LOOPBACK does, after import."""
    ray_constants.ENABLE_RAY_CLUSTER = False


def keep_stdout() -> None:
    """Have a driver write to stderr what it hears of its cluster, such as a node that is lost.

    Ray writes that to stdout, into the middle of an answer in JSON, and has no setting for it.
    """
    worker.print_to_stdstream = _print_to_stderr


def _print_to_stderr(data: dict[str, Any], ignore_prefix: bool) -> None:
    PRINT({**data, "is_err": True}, ignore_prefix)


def start_local(folder: Path, *, num_cpus: int, object_store_bytes: int) -> str:
    """Start a cluster that ends with this process, and keeps its files in `folder`; its address."""
    keep_stdout()
    ray.init(
        address="local",
        num_cpus=num_cpus,
        object_store_memory=object_store_bytes,
        include_dashboard=False,
        log_to_driver=False,
        # The public option is one of `ray start`, whose processes outlive who called it.
        _temp_dir=str(folder),
    )
    return ray.get_runtime_context().gcs_address


def free_by_node() -> Mapping[str, Mapping[str, float]]:
    """Node id -> what is free there; `ray.available_resources` adds the nodes up."""
    return available_resources_per_node()


def serve_is_running() -> bool:
    """Whether the connected cluster has a Serve controller; `serve.status` would start one."""
    try:
        _controller()
    except ValueError:
        return False
    return True


def serve_details() -> dict[str, Any]:
    """What `serve status` shows and more, from the controller: a local cluster has no dashboard."""
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None, "raises if Serve does not run"
    return client.get_serve_details()


def set_num_replicas(app: str, deployment: str, count: int) -> None:
    """The call behind Serve's external scaling API (POST .../deployments/NAME/scale)."""
    from ray.serve._private.common import DeploymentID

    deployment_id = DeploymentID(name=deployment, app_name=app)
    ray.get(_controller().update_deployment_replicas.remote(deployment_id, count))


def with_version(deployment: Deployment, version: str) -> Deployment:
    """The same version every time: deploying again changes options and restarts no replica."""
    return deployment.options(version=version, _internal=True)


def cluster_id() -> str:
    """Of the connected cluster: another one after each start of its head."""
    return global_worker.current_cluster_and_job[0].hex()


def place_replicas_by(choose: ChooseNode, *, prefix: str) -> None:
    """Have Serve's controller place the replicas of some applications where `choose` says.

    To be called in the controller's process, where our autoscaling policies are made. Serve has no
    public option for it: `max_replicas_per_node` is a bound, which keeps replicas of a lost node
    from the nodes that are left. It chooses nodes itself, in the same way, where it packs.

    Args:
        choose: see spreading.emptiest_node; None: as Ray places an actor with SPREAD.
        prefix: of the applications' names.
    """

    from ray.serve._private.deployment_scheduler import DeploymentScheduler

    def schedule(self: DeploymentScheduler) -> None:
        for deployment, pending in self._pending_replicas.items():
            for request in list(pending.values()):
                is_ours = deployment.app_name.startswith(prefix)
                node = _chosen_node(self, deployment, choose) if is_ours else None
                self._schedule_replica(request, "SPREAD", target_node_id=node)

    DeploymentScheduler._schedule_with_spread_strategy = schedule


def _chosen_node(
    scheduler: DeploymentScheduler, deployment: DeploymentID, choose: ChooseNode
) -> str | None:
    def nodes_of(it: DeploymentID) -> list[str]:
        launching = [info.target_node_id for info in scheduler._launching_replicas[it].values()]
        return [*scheduler._running_replicas[it].values(), *filter(None, launching)]

    everywhere = Counter(node for it in scheduler._deployments for node in nodes_of(it))
    free = scheduler._get_available_resources_per_node()
    needed = scheduler._deployments[deployment].required_resources
    return choose(needed, free, nodes_of(deployment), everywhere)


def _controller() -> Any:
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
