"""What our gRPC servers have in common: limits, health, reflection, and how to probe them."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health  # pyright: ignore
from grpc_reflection.v1alpha import reflection

# The largest message either way; a client needs the same limit for what it receives.
MAX_MESSAGE_BYTES = 64 << 20
MAX_STREAMS = 256


def new_server() -> grpc.aio.Server:
    """A server with our message limits, not yet bound; needs a running event loop."""
    return grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            # Callers ping every few seconds to notice a dead replica; the default allows one ping
            # in five minutes and then hangs up.
            ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            # Two servers on one port would share its callers silently.
            ("grpc.so_reuseport", 0),
        ]
    )


async def start_server(
    server: grpc.aio.Server, health: grpc_health.HealthServicer, service_name: str, address: str
) -> int:
    """Add health and reflection to a server, bind it to host:port and start it; returns the port.

    Raises:
        OSError: if the address cannot be bound.
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
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(
            f"address {address} must be free, got: {error}. Choose another with --port, or stop "
            "what listens there."
        ) from error
    await server.start()
    return port


def is_serving(address: str, timeout_s: float) -> bool:
    """Whether the gRPC server at the address answers its health check with SERVING."""
    with grpc.insecure_channel(address) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(  # pyright: ignore
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError:
            return False
    return reply.status == health_pb2.HealthCheckResponse.SERVING
