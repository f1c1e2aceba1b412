"""Shared by our gRPC servers: limits, health, reflection, and probes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health  # pyright: ignore
from grpc_reflection.v1alpha import reflection

from protos import teacher_pb2, teacher_pb2_grpc
from protos.limits import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES
from teacher_server.replica.security import ServerSecurity
from trainer.common.errors import MachineError, first_line
from trainer.common.ports import UNSEEN, port_holder
from trainer.security.addresses import port_of
from trainer.security.channels import ChannelFactory, keepalive
from trainer.security.credentials import NO_SECURITY, SecurityFiles

# Of one connection.
MAX_STREAMS = 256
# Of all connections, the streams of students included; beyond it RESOURCE_EXHAUSTED.
MAX_CALLS = 4096
# Of one call's headers, token and digests included; ours take less than 1 KB.
MAX_METADATA_BYTES = 8 << 10
# Callers ping every few seconds to notice a dead replica; by default a server allows one ping in
# five minutes and then closes the connection.
PING_MS = 2_000
# A connection without a handshake is closed after this time.
HANDSHAKE_MS = 20_000


def new_server(security: ServerSecurity) -> grpc.aio.Server:
    """A server with our limits and the token check, not yet bound; needs a running loop."""
    return grpc.aio.server(
        interceptors=security.interceptors,
        maximum_concurrent_rpcs=MAX_CALLS,
        options=[
            # Twice the limit of a request: one must be received before it can be refused for its
            # size with a clear message, and is held meanwhile.
            ("grpc.max_receive_message_length", 2 * MAX_REQUEST_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            # gRPC refuses at random between the first and the second, and always above it.
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
            ("grpc.http2.min_ping_interval_without_data_ms", PING_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            *keepalive(every_s=20.0, answer_s=10.0),
            # Two servers on one port would share its callers silently.
            ("grpc.so_reuseport", 0),
        ],
    )


async def start_server(
    server: grpc.aio.Server,
    health: grpc_health.HealthServicer,
    service_name: str,
    *addresses: str,
    security: ServerSecurity,
) -> int:
    """Add health and reflection to a server, bind it and start it; returns the port.

    Args:
        server: that is not bound yet.
        health: its health service.
        service_name: that the health is of.
        addresses: host:port, of which the first is taken that can be bound.
        security: what protects the server.

    Raises:
        MachineError: if none can be bound.
        ValueError: if they are beyond this machine and nothing protects what comes there.
    """
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await health.set(service_name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection(
        (
            service_name,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        ),
        server,
    )
    port = _bind(server, security, addresses)
    await server.start()
    return port


def _bind(server: grpc.aio.Server, security: ServerSecurity, addresses: Sequence[str]) -> int:
    *others, last = addresses
    for address in others:
        # Another replica of this node has it, or a connection that goes out.
        with contextlib.suppress(RuntimeError):
            return security.bind(server, address)
    return _bind_last(server, security, last, of=len(addresses))


def _bind_last(server: grpc.aio.Server, security: ServerSecurity, address: str, *, of: int) -> int:
    try:
        return security.bind(server, address)
    except RuntimeError as error:
        if of > 1:
            raise MachineError(
                f"one of {of} ports, up to address {address}, must be free, got none. Give more "
                "with --replica-ports, or stop what holds them."
            ) from error
        holder = port_holder(port_of(address))
        # gRPC does not say why it could not: the address may be none of this machine's.
        rule = "free, got one of" if holder != UNSEEN else "free, and this machine's, got"
        why = holder if holder != UNSEEN else first_line(error)
        raise MachineError(
            f"address {address} must be {rule} {why}. Choose another with --host and --port, or "
            "stop what holds it."
        ) from error


def is_serving(address: str, timeout_s: float, security: SecurityFiles = NO_SECURITY) -> bool:
    """Whether the gRPC server at the address answers its health check with SERVING."""
    channels = ChannelFactory(security)
    with channels.blocking(address) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(  # pyright: ignore
                health_pb2.HealthCheckRequest(), timeout=timeout_s, metadata=channels.metadata
            )
        except grpc.RpcError:
            return False
    return reply.status == health_pb2.HealthCheckResponse.SERVING


def fetch_stats(
    address: str, timeout_s: float, security: SecurityFiles = NO_SECURITY
) -> teacher_pb2.ReplicaStats | None:
    """Statistics of the replica at the address; None if it does not answer in time."""
    channels = ChannelFactory(security)
    with channels.blocking(address) as channel:
        try:
            return teacher_pb2_grpc.TeacherStub(channel).Stats(
                teacher_pb2.StatsRequest(), timeout=timeout_s, metadata=channels.metadata
            )
        except grpc.RpcError:
            return None
