"""The Directory: which teacher replicas there are, leased, and streamed to whoever watches.

A replica holds its lease by renewing it; one that died loses it after lease_s. Students see only
the gRPC side, Watch: the whole fleet at once, then the whole fleet after every change.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import ray
from grpc_health.v1.health import aio as grpc_health  # pyright: ignore
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import RayServeException

from protos import teacher_pb2, teacher_pb2_grpc
from teacher_server.rpc import new_server, start_server
from teacher_server.security import ServerSecurity
from trainer.channels import Dialer
from trainer.credentials import NO_SECURITY, SecurityFiles

logger = logging.getLogger("ray.serve")

SERVICE_NAME = teacher_pb2.DESCRIPTOR.services_by_name["Directory"].full_name
DIRECTORY_APP = "conkd-directory"
DIRECTORY_DEPLOYMENT = "Directory"
HEAD_RESOURCE = "node:__internal_head__"
DRAIN_S = 5.0
RENEW_S = 1.0
LEASE_S = 6.0
EXPIRY_CHECK_S = 0.25
# How long one call waits for a replica to start; students want again what has not come.
WAKE_S = 10.0
# After a start nobody is told of a fleet that has not had the time to renew: a Directory that comes
# back from a crash must not announce that all teachers are gone.
SETTLE_S = 1.5 * RENEW_S


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One replica process and where its own gRPC server listens."""

    kind: str
    address: str
    replica_id: str
    pid: int
    node_id: str = ""


class Leases:
    """Leases by replica id; pure, the clock is given."""

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._held: dict[str, tuple[Lease, float]] = {}

    def renew(self, lease: Lease) -> bool:
        """Register or renew; True if the fleet changed by it."""
        known = self._held.get(lease.replica_id)
        self._held[lease.replica_id] = (lease, self._clock() + self._lease_s)
        return known is None or known[0] != lease

    def release(self, replica_id: str) -> bool:
        """Give a lease up; True if the fleet changed by it."""
        return self._held.pop(replica_id, None) is not None

    def expire(self) -> bool:
        """Drop what was not renewed in time; True if the fleet changed by it."""
        now = self._clock()
        late = [replica_id for replica_id, (_, until) in self._held.items() if until <= now]
        for replica_id in late:
            del self._held[replica_id]
        return bool(late)

    def fleet(self) -> list[Lease]:
        """Every lease held, ordered by kind and replica id."""
        return sorted(
            (lease for lease, _ in self._held.values()), key=lambda it: (it.kind, it.replica_id)
        )


class DirectoryService(teacher_pb2_grpc.DirectoryServicer):
    """Watch over a set of leases, which replicas change through renew() and release()."""

    def __init__(
        self,
        leases: Leases,
        *,
        settle_s: float,
        wake: Callable[[str], None] = lambda kind: None,
    ) -> None:
        """wake is called with each kind that somebody wants and nobody serves."""
        self._leases = leases
        self._settle_s = settle_s
        self._wake = wake
        self._settled = asyncio.Event()
        self._changed = asyncio.Condition()
        self._version = 0

    async def Watch(
        self, request: teacher_pb2.WatchRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[teacher_pb2.Fleet]:
        """The whole fleet, now and after every change."""
        await self._settled.wait()
        while True:
            seen = self._version
            yield teacher_pb2.Fleet(
                endpoints=[
                    teacher_pb2.Endpoint(
                        kind=lease.kind, address=lease.address, replica_id=lease.replica_id
                    )
                    for lease in self._leases.fleet()
                ]
            )
            async with self._changed:
                while self._version == seen:
                    await self._changed.wait()

    async def Want(
        self, request: teacher_pb2.WantRequest, context: grpc.aio.ServicerContext
    ) -> teacher_pb2.WantReply:
        """Wake the kinds that the caller cannot do without; of others nothing happens."""
        listed = {lease.kind for lease in self._leases.fleet()}
        for kind in set(request.kinds) - listed:
            self._wake(kind)
        return teacher_pb2.WantReply()

    def fleet(self) -> list[Lease]:
        """Every lease held."""
        return self._leases.fleet()

    async def renew(self, lease: Lease) -> None:
        """Register a replica or renew its lease."""
        await self._announce(self._leases.renew(lease))

    async def release(self, replica_id: str) -> None:
        """Take a replica out at once."""
        await self._announce(self._leases.release(replica_id))

    async def keep(self) -> None:
        """Expire leases for ever; the task of this coroutine is the Directory's heart."""
        await asyncio.sleep(self._settle_s)
        self._settled.set()
        while True:
            await self._announce(self._leases.expire())
            await asyncio.sleep(EXPIRY_CHECK_S)

    async def _announce(self, changed: bool) -> None:
        if changed:
            async with self._changed:
                self._version += 1
                self._changed.notify_all()


class DirectoryServer:
    """The Directory behind a grpc.aio server of its own, with health and reflection."""

    def __init__(
        self,
        *,
        lease_s: float = LEASE_S,
        settle_s: float = SETTLE_S,
        security: SecurityFiles = NO_SECURITY,
        wake: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self.service = DirectoryService(Leases(lease_s), settle_s=settle_s, wake=wake)
        self._health = grpc_health.HealthServicer()
        self._security = ServerSecurity(security)
        self._server = new_server(self._security)
        self._tasks: list[asyncio.Task[object]] = []

    @property
    def healthy(self) -> bool:
        """Whether the server accepts and leases expire."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def start(self, host: str, port: int) -> int:
        """Listen on host:port; returns the port.

        Raises:
            OSError: if the address cannot be bound.
            ValueError: if it is beyond this machine and nothing protects what comes there.
        """
        teacher_pb2_grpc.add_DirectoryServicer_to_server(self.service, self._server)
        address = f"{host}:{port}"
        port = await start_server(
            self._server, self._health, SERVICE_NAME, address, security=self._security
        )
        self._tasks = [
            asyncio.create_task(self.service.keep()),
            asyncio.create_task(self._server.wait_for_termination()),
        ]
        return port

    async def stop(self, grace_s: float) -> None:
        """Stop serving; watchers reconnect elsewhere or find nobody."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        for task in self._tasks:
            task.cancel()


class DirectoryReplica:
    """Serve's side of the Directory: replicas call renew and release through a handle."""

    def __init__(
        self,
        host: str,
        port: int,
        security: dict[str, Any],
        teachers: Mapping[str, tuple[str, str]],
    ) -> None:
        """teachers: the deployment and the application of each kind."""
        self._host = host
        self._port = port
        self._security = SecurityFiles(**security)
        self._teachers = teachers
        self._waking: dict[str, asyncio.Task[None]] = {}
        self._server: DirectoryServer | None = None

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        """Serve's asynchronous hook, run before the replica counts as healthy; starts listening."""
        if self._server is None:
            server = DirectoryServer(**settings, security=self._security, wake=self._wake)
            await server.start(self._host, self._port)
            self._server = server

    async def check_health(self) -> None:
        """Raises if the gRPC server is down; Serve then replaces the replica."""
        if self._server is None or not self._server.healthy:
            raise RuntimeError("the Directory's gRPC server must be up, got a stopped one.")

    async def renew(self, lease: dict[str, Any]) -> None:
        """Register a replica or renew its lease."""
        await self._service().renew(Lease(**lease))

    async def release(self, replica_id: str) -> None:
        """Take a replica out at once."""
        await self._service().release(replica_id)

    async def fleet(self) -> list[dict[str, Any]]:
        """Every lease held."""
        return [dataclasses.asdict(lease) for lease in self._service().fleet()]

    def _wake(self, kind: str) -> None:
        """Have Serve start a replica of an autoscaled kind that has none."""
        is_waking = kind in self._waking and not self._waking[kind].done()
        if kind in self._teachers and not is_waking:
            self._waking[kind] = asyncio.create_task(self._call_awake(kind))

    async def _call_awake(self, kind: str) -> None:
        """A call that waits for a replica is what Serve scales up from zero for.

        Not for ever: whoever still wants one says so again, and one that is off stays off.
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
) -> serve.Deployment:
    """A deployment as all of ours are: checked every second, drained before it goes."""
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
        # Only the Directory is called through Serve, each second by each replica: no access log.
        logging_config={"enable_access_log": False},
    )(replica)


def directory_app(
    host: str,
    port: int,
    security: SecurityFiles,
    teachers: Mapping[str, tuple[str, str]],
) -> serve.Application:
    """The Directory: one replica, on the head node where the cluster marks one.

    Args:
        host: where it listens.
        port: where it listens.
        security: what protects it.
        teachers: the deployment and the application of each kind, to wake them.
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
    return deployment.bind(host, port, dataclasses.asdict(security), dict(teachers))


def fetch_fleet(
    address: str, timeout_s: float, security: SecurityFiles = NO_SECURITY
) -> list[teacher_pb2.Endpoint]:
    """The endpoints that a Directory announces now.

    Raises:
        OSError: if no Directory answers at the address in time.
    """
    dialer = Dialer(security)
    with dialer.blocking(address) as channel:
        watch = teacher_pb2_grpc.DirectoryStub(channel).Watch(
            teacher_pb2.WatchRequest(), timeout=timeout_s, metadata=dialer.metadata
        )
        try:
            return list(next(iter(watch)).endpoints)
        except grpc.RpcError as error:
            raise OSError(
                f"a Directory must answer at {address}, got {error.code().name}. "  # type: ignore[attr-defined]
                "Is the fleet up? python -m teacher_server status"
            ) from error
        finally:
            watch.cancel()
