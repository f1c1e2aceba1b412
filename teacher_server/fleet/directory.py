"""The Directory as a Ray Serve deployment: replicas renew leases, students wake kinds at zero."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import RayServeException

from teacher_server.fleet.directory_server import DirectoryServer, start_after_another
from teacher_server.fleet.leases import DRAIN_S, Lease
from teacher_server.fleet.ray_private import HEAD_RESOURCE
from trainer.security.credentials import SecurityFiles

logger = logging.getLogger("ray.serve")

DIRECTORY_APP = "conkd-directory"
DIRECTORY_DEPLOYMENT = "Directory"
# Serve rounds up to one replica at a time; at its default of 20 % two of ten stop at once.
ONE_BY_ONE = 1e-4
# Starts that may fail before Serve gives up on a deployment, or on replacing its replicas.
START_ATTEMPTS = 3
# How long one call waits for a replica to start; students repeat Want until one is listed.
WAKE_S = 10.0


class DirectoryReplica:
    """Serve's actor of the Directory: replicas call renew and release through a handle."""

    def __init__(
        self,
        host: str,
        port: int,
        security: dict[str, Any],
        teachers: Mapping[str, tuple[str, str]],
        retiring: Mapping[str, Sequence[str]],
    ) -> None:
        """A Directory that does not listen yet.

        `teachers`: the deployment and the application of each kind.
        `retiring`: kind -> digests of the weights whose replicas retire.
        """
        self._host = host
        self._port = port
        self._security = SecurityFiles(**security)
        self._teachers = teachers
        self._retiring = retiring
        self._waking: dict[str, asyncio.Task[None]] = {}
        self._server: DirectoryServer | None = None

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        """Serve's asynchronous hook, run before the replica counts as healthy; starts listening."""
        if self._server is None:
            self._server = await start_after_another(
                lambda: DirectoryServer(
                    **settings,
                    security=self._security,
                    wake=self._wake,
                    retiring=self._retiring,
                ),
                self._host,
                self._port,
            )

    async def check_health(self) -> None:
        """Raises if the gRPC server is down; Serve then replaces the replica."""
        if self._server is None or not self._server.healthy:
            raise RuntimeError("the Directory's gRPC server must be up, got a stopped one.")

    async def renew(self, lease: dict[str, Any]) -> None:
        """Register a replica or renew its lease."""
        await self._service().renew(Lease(**lease))

    async def release(self, replica_id: str) -> None:
        """Remove a replica at once."""
        await self._service().release(replica_id)

    def _wake(self, kind: str) -> None:
        """Have Serve start a replica of an autoscaled kind that has none."""
        is_waking = kind in self._waking and not self._waking[kind].done()
        if kind in self._teachers and not is_waking:
            self._waking[kind] = asyncio.create_task(self._call_awake(kind))

    async def _call_awake(self, kind: str) -> None:
        """Issue a call that waits for a replica, for which Serve scales up from zero.

        It times out: students repeat Want, and a kind that is off stays off.
        """
        try:
            call = serve.get_deployment_handle(*self._teachers[kind]).wake.remote()
            try:
                await asyncio.wait_for(_finished(call), WAKE_S)
            except asyncio.TimeoutError:
                call.cancel()
        except (RayError, RayServeException) as error:
            logger.info("The %s teachers could not be woken: %r", kind, error)

    def _service(self) -> Any:
        assert self._server is not None, "Serve calls only replicas that were reconfigured"
        return self._server.service

    async def __del__(self) -> None:
        for task in self._waking.values():
            task.cancel()
        if self._server is not None:
            await self._server.stop(0.5)


async def _finished(response: Awaitable[Any]) -> None:
    await response


def new_deployment(
    replica: type,
    *,
    name: str,
    num_replicas: int | None,
    autoscaling: AutoscalingConfig | None = None,
    actor_options: dict[str, Any],
    user_config: dict[str, Any],
    max_ongoing_requests: int,
    has_surge: bool = False,
) -> serve.Deployment:
    """A deployment that Serve checks every second and drains before it stops.

    Its replicas are replaced one by one; with `has_surge` a new one starts before an old one stops.
    """
    return serve.deployment(
        name=name,
        num_replicas=num_replicas,
        autoscaling_config=autoscaling,
        ray_actor_options=actor_options,
        user_config=user_config,
        max_ongoing_requests=max_ongoing_requests,
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=DRAIN_S + 3,
        max_constructor_retry_count=START_ATTEMPTS,
        rolling_update_percentage=ONE_BY_ONE,
        # Serve rounds up to whole replicas.
        max_surge_percent=1 if has_surge else 0,
        # Each replica calls the Directory through Serve every second: no access log.
        logging_config={"enable_access_log": False},
    )(replica)


def directory_app(
    host: str,
    port: int,
    security: SecurityFiles,
    teachers: Mapping[str, tuple[str, str]],
    retiring: Mapping[str, Sequence[str]],
) -> serve.Application:
    """The Directory: one replica, on the head node where the cluster marks one.

    Args:
        host: where it listens.
        port: where it listens.
        security: the files that protect it.
        teachers: the deployment and the application of each kind, to wake them.
        retiring: kind -> digests of the weights that new students are to leave alone.
    """
    head = {HEAD_RESOURCE: 0.001} if HEAD_RESOURCE in ray.cluster_resources() else {}
    deployment = new_deployment(
        DirectoryReplica,
        name=DIRECTORY_DEPLOYMENT,
        num_replicas=1,
        actor_options={"num_cpus": 0, "resources": head},
        user_config={},
        max_ongoing_requests=256,
    )
    return deployment.bind(host, port, dataclasses.asdict(security), dict(teachers), dict(retiring))
