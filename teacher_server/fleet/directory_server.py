"""The Directory behind gRPC: streams the list of teacher replicas to its watchers.

A replica keeps its lease by renewing it; the lease of a dead one expires after lease_s. Students
call Watch, which sends the whole fleet at once and after every change, and Want. Teachers of other
makes call Register and Renew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from types import MappingProxyType

import grpc
from grpc_health.v1.health import aio as grpc_health  # pyright: ignore

from protos import teacher_pb2, teacher_pb2_grpc
from teacher_server.fleet.leases import (
    LEASE_S,
    RENEW_S,
    Lease,
    Leases,
    LeasesFull,
    LeaseTaken,
)
from teacher_server.fleet.registration import lease_of
from teacher_server.replica.rpc import new_server, start_server
from teacher_server.replica.security import ServerSecurity
from trainer.common.errors import InputError, MachineError
from trainer.security.addresses import address_of
from trainer.security.channels import ChannelFactory
from trainer.security.credentials import NO_SECURITY, SecurityFiles

SERVICE_NAME = teacher_pb2.DESCRIPTOR.services_by_name["Directory"].full_name
EXPIRY_CHECK_S = 0.25
# After a start nothing is announced until every replica had time to renew: a Directory that
# restarts after a crash must not announce an empty fleet.
SETTLE_S = 1.5 * RENEW_S
# Serve starts a Directory while the one before it ends.
BIND_S = 8.0


NOT_A_SERVER = (
    "Register must come with a server's certificate, got a client's. Dial with server.pem and "
    "server.key (docs/operations.md)."
)
NO_LEASE = (
    "a lease must be held to be renewed, got one that ended, or another lease_id. Register again."
)
NONE_RETIRES: Mapping[str, Collection[str]] = MappingProxyType({})
REFUSALS = {
    InputError: grpc.StatusCode.INVALID_ARGUMENT,
    LeaseTaken: grpc.StatusCode.ALREADY_EXISTS,
    LeasesFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class DirectoryService(teacher_pb2_grpc.DirectoryServicer):
    """Watch over a set of leases, which replicas change through renew() and release()."""

    def __init__(
        self,
        leases: Leases,
        *,
        settle_s: float,
        wake: Callable[[str], None] = lambda kind: None,
        security: ServerSecurity | None = None,
        retiring: Mapping[str, Collection[str]] = NONE_RETIRES,
    ) -> None:
        """A service without leases yet.

        `wake` is called with each kind that a student wants and no replica serves.
        `retiring`: kind -> digests of the weights whose replicas of Serve retire.
        """
        self._leases = leases
        self._security = security or ServerSecurity(NO_SECURITY)
        self._settle_s = settle_s
        self._wake = wake
        self._retiring = retiring
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
                    endpoint_of(lease, retiring=self._is_retiring(lease))
                    for lease in self._leases.fleet()
                ]
            )
            async with self._changed:
                while self._version == seen:
                    await self._changed.wait()

    async def Want(
        self, request: teacher_pb2.WantRequest, context: grpc.aio.ServicerContext
    ) -> teacher_pb2.WantReply:
        """Wake the kinds of the request that have no replica; fixed ones stay as they are.

        An outside teacher keeps none asleep, nor does one that retires: it may not be for the
        student that asks.
        """
        listed = {
            lease.kind
            for lease in self._leases.fleet()
            if not lease.is_outside and not self._is_retiring(lease)
        }
        for kind in set(request.kinds) - listed:
            self._wake(kind)
        return teacher_pb2.WantReply()

    async def Register(
        self, request: teacher_pb2.RegisterRequest, context: grpc.aio.ServicerContext
    ) -> teacher_pb2.LeaseTerms:
        """List a teacher of another make, until its lease ends."""
        if not self._security.is_server(context):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, NOT_A_SERVER)
        try:
            await self.renew(lease_of(request, self._security.files))
        except (InputError, LeaseTaken, LeasesFull) as refused:
            await context.abort(REFUSALS[type(refused)], str(refused))
        return self._terms()

    async def Renew(
        self, request: teacher_pb2.RenewRequest, context: grpc.aio.ServicerContext
    ) -> teacher_pb2.LeaseTerms:
        """Renew the lease of an outside teacher, or end it."""
        lease = self._leases.find(request.replica_id, request.lease_id)
        if lease is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, NO_LEASE)
        elif request.leave:
            await self.release(lease.replica_id)
        else:
            await self.renew(lease)
        return self._terms()

    def _terms(self) -> teacher_pb2.LeaseTerms:
        lease_s = self._leases.lease_s
        return teacher_pb2.LeaseTerms(lease_s=lease_s, renew_every_s=min(RENEW_S, lease_s / 3))

    async def renew(self, lease: Lease) -> None:
        """Register a replica or renew its lease; raises as `Leases.renew`."""
        await self._announce(self._leases.renew(lease))

    async def release(self, replica_id: str) -> None:
        """Remove a replica at once."""
        await self._announce(self._leases.release(replica_id))

    async def keep(self) -> None:
        """Expire leases until cancelled; the Directory is unhealthy when this ends."""
        await asyncio.sleep(self._settle_s)
        self._settled.set()
        while True:
            await self._announce(self._leases.expire())
            await asyncio.sleep(EXPIRY_CHECK_S)

    def _is_retiring(self, lease: Lease) -> bool:
        weights = self._retiring.get(lease.kind, ())
        return not lease.is_outside and lease.weights_digest in weights

    async def _announce(self, changed: bool) -> None:
        if changed:
            async with self._changed:
                self._version += 1
                self._changed.notify_all()


def endpoint_of(lease: Lease, *, retiring: bool = False) -> teacher_pb2.Endpoint:
    """What students hear of a lease."""
    return teacher_pb2.Endpoint(
        kind=lease.kind,
        address=lease.address,
        replica_id=lease.replica_id,
        weights_digest=lease.weights_digest,
        model=lease.model,
        zone=lease.zone,
        capacity=lease.capacity,
        retiring=retiring,
    )


class DirectoryServer:
    """The Directory behind a grpc.aio server of its own, with health and reflection."""

    def __init__(
        self,
        *,
        lease_s: float = LEASE_S,
        settle_s: float = SETTLE_S,
        security: SecurityFiles = NO_SECURITY,
        wake: Callable[[str], None] = lambda kind: None,
        retiring: Mapping[str, Collection[str]] = NONE_RETIRES,
    ) -> None:
        self._health = grpc_health.HealthServicer()
        self._security = ServerSecurity(security)
        self.service = DirectoryService(
            Leases(lease_s),
            settle_s=settle_s,
            wake=wake,
            security=self._security,
            retiring=retiring,
        )
        self._server = new_server(self._security)
        self._tasks: list[asyncio.Task[object]] = []

    @property
    def healthy(self) -> bool:
        """Whether the server accepts and leases expire."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def start(self, host: str, port: int) -> int:
        """Listen on host:port; returns the port.

        Raises:
            MachineError: if the address cannot be bound.
            ValueError: if it is beyond this machine and nothing protects what comes there.
        """
        teacher_pb2_grpc.add_DirectoryServicer_to_server(self.service, self._server)
        address = address_of(host, port)
        port = await start_server(
            self._server, self._health, SERVICE_NAME, address, security=self._security
        )
        self._tasks = [
            asyncio.create_task(self.service.keep()),
            asyncio.create_task(self._server.wait_for_termination()),
        ]
        return port

    async def stop(self, grace_s: float) -> None:
        """Stop serving; watchers try to reconnect."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        for task in self._tasks:
            task.cancel()


async def start_after_another(
    new_server: Callable[[], DirectoryServer], host: str, port: int
) -> DirectoryServer:
    """A server on a port that the Directory which it replaces may still hold.

    Raises:
        MachineError: if the port is not free in BIND_S.
    """
    until_s = time.monotonic() + BIND_S
    while True:
        server = new_server()
        try:
            await server.start(host, port)
            return server
        except MachineError:
            if time.monotonic() > until_s:
                raise
        await asyncio.sleep(EXPIRY_CHECK_S)


def fetch_fleet(
    address: str, timeout_s: float, security: SecurityFiles = NO_SECURITY
) -> list[teacher_pb2.Endpoint]:
    """The endpoints that a Directory announces now.

    Raises:
        MachineError: if no Directory answers at the address in time.
    """
    channels = ChannelFactory(security)
    with channels.blocking(address) as channel:
        watch = teacher_pb2_grpc.DirectoryStub(channel).Watch(
            teacher_pb2.WatchRequest(), timeout=timeout_s, metadata=channels.metadata
        )
        try:
            return list(next(iter(watch)).endpoints)
        except grpc.RpcError as error:
            raise MachineError(
                f"a Directory must answer at {address}, got {error.code().name}. "  # type: ignore[attr-defined]
                "Is the fleet up? python -m teacher_server status"
            ) from error
        finally:
            watch.cancel()
