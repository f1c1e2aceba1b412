"""Access to our gRPC servers: mutual TLS, and one bearer token for the whole fleet.

The token is checked before a method is looked up, so it covers all of them: health, reflection and
unknown methods too.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc

from trainer.security.addresses import host_of
from trainer.security.credentials import (
    SERVER_NAME,
    SecurityFiles,
    check_host,
    read_credentials,
)

SERVER_REMEDY = (
    "Give --tls and --token-file (docs/operations.md), or --insecure on a network that you trust."
)
REFUSAL = (
    "authorization must be the fleet's bearer token, got none or another. Set teachers.token_file "
    "to a copy of the file that the fleet was started with."
)


class TokenCheck(grpc.aio.ServerInterceptor):
    """Answers UNAUTHENTICATED to every call without the token, whatever it calls."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode("ascii")
        # A stream handler also for unary calls: the wire does not name the call type, and a unary
        # handler would wait for the request before it refuses.
        self._refusal = grpc.stream_stream_rpc_method_handler(_refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The method's handler if the call has the token, else one that refuses it."""
        sent = [
            value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
            for key, value in handler_call_details.invocation_metadata or ()
            if key == "authorization"
        ]
        # In constant time: the duration of a refusal must not reveal how much of a guess is right.
        if len(sent) == 1 and hmac.compare_digest(sent[0], self._expected):
            return await continuation(handler_call_details)
        return self._refusal


class ServerSecurity:
    """TLS and token of one server; the files are read once, on construction.

    Raises:
        ValueError: as `trainer.security.credentials.read_credentials`.
    """

    def __init__(self, files: SecurityFiles) -> None:
        credentials = read_credentials(files, "server")
        self.files = files
        token = credentials.token
        self.interceptors = [] if token is None else [TokenCheck(token)]
        self._tls = None
        if credentials.identity is not None:
            self._tls = grpc.ssl_server_credentials(
                [(credentials.identity.key, credentials.identity.certificates)],
                root_certificates=credentials.identity.ca,
                require_client_auth=True,
            )

    def is_server(self, context: grpc.aio.ServicerContext) -> bool:
        """Whether the caller may pass for a server of this fleet.

        With TLS its certificate must have the servers' name; without, the token is all there is.
        """
        names = context.auth_context().get("x509_subject_alternative_name", ())
        return self._tls is None or SERVER_NAME.encode() in names

    def bind(self, server: grpc.aio.Server, address: str) -> int:
        """Let a server listen on host:port; returns the port.

        Raises:
            ValueError: if the address is beyond this machine and nothing protects what comes there.
            RuntimeError: if the address cannot be bound.
        """
        check_host("a server's host", host_of(address), self.files, remedy=SERVER_REMEDY)
        if self._tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self._tls)


async def _refuse(
    requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)
