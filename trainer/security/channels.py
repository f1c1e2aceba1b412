"""Channels to a Directory and to replicas: with TLS and the token, or refused."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from trainer.security.credentials import (
    SERVER_NAME,
    STUDENT_REMEDY,
    SecurityFiles,
    check_host,
    host_of,
    is_loopback,
    read_credentials,
)

Options = Sequence[tuple[str, int | str]]


class ChannelFactory:
    """Opens channels with the TLS and token of a SecurityFiles, read once, on construction.

    Raises:
        ValueError: as `read_credentials`.
    """

    def __init__(self, files: SecurityFiles) -> None:
        credentials = read_credentials(files, "client")
        self._files = files
        self._tls = None
        if credentials.identity is not None:
            self._tls = grpc.ssl_channel_credentials(
                root_certificates=credentials.identity.ca,
                private_key=credentials.identity.key,
                certificate_chain=credentials.identity.certificates,
            )
        self.metadata: tuple[tuple[str, str], ...] = ()
        """Sent with every call. gRPC's own call credentials work over TLS only."""
        if credentials.token is not None:
            self.metadata = (("authorization", f"Bearer {credentials.token}"),)

    def aio(self, address: str, options: Options = ()) -> grpc.aio.Channel:
        """A channel to host:port for the running event loop.

        Raises:
            ValueError: if the address is beyond this machine and nothing protects what goes there.
        """
        options = [*options, *self._options(address)]
        if self._tls is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, self._tls, options=options)

    def blocking(self, address: str) -> grpc.Channel:
        """A channel to host:port whose calls block; raises as `aio`."""
        options = self._options(address)
        if self._tls is None:
            return grpc.insecure_channel(address, options=options)
        return grpc.secure_channel(address, self._tls, options=options)

    def _options(self, address: str) -> Options:
        host = host_of(address)
        check_host("a teacher's host", host, self._files, remedy=STUDENT_REMEDY)
        options: list[tuple[str, int | str]] = []
        if self._tls is not None:
            options.append(("grpc.ssl_target_name_override", SERVER_NAME))
        if is_loopback(host):
            # A proxy of the environment (http_proxy) would route even this off the machine.
            options.append(("grpc.enable_http_proxy", 0))
        return options
