"""Channels to a Directory and to replicas: with TLS and the token, or refused."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

import grpc

from trainer.security.addresses import host_of, port_of
from trainer.security.credentials import (
    CA_NAME,
    SERVER_NAME,
    STUDENT_REMEDY,
    Role,
    SecurityFiles,
    check_host,
    read_credentials,
)

Options = Sequence[tuple[str, int | str]]


def keepalive(*, every_s: float, answer_s: float) -> list[tuple[str, int]]:
    """Options that end a connection whose other side has been silent for `every_s + answer_s`.

    gRPC's own two options are not enough: its transport waits for 60 s for the answer to a ping,
    whatever `keepalive_timeout_ms` says, and after two pings without data it sends no third one for
    a minute (seen with grpcio 1.85: 60 to 115 s instead of 15).
    """
    every_ms, answer_ms = round(every_s * 1000), round(answer_s * 1000)
    return [
        ("grpc.keepalive_time_ms", every_ms),
        ("grpc.keepalive_timeout_ms", answer_ms),
        ("grpc.http2.ping_timeout_ms", answer_ms),
        ("grpc.http2.max_pings_without_data", 0),
    ]


class ChannelFactory:
    """Opens channels with the TLS and token of a SecurityFiles, read once, on construction.

    Raises:
        ValueError: as `read_credentials`.
    """

    def __init__(self, files: SecurityFiles, role: Role = "client") -> None:
        """`role`: whose certificate is shown; a teacher that registers shows a server's."""
        credentials = read_credentials(files, role)
        self._files, self._role = files, role
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

    def blocking(self, address: str, options: Options = ()) -> grpc.Channel:
        """A channel to host:port whose calls block; raises as `aio`."""
        options = [*options, *self._options(address)]
        if self._tls is None:
            return grpc.insecure_channel(address, options=options)
        return grpc.secure_channel(address, self._tls, options=options)

    def connect(self, address: str, timeout_s: float) -> socket.socket:
        """A bare connection to host:port for HTTP/2; `timeout_s` is for each of its calls.

        Raises:
            OSError: if there is none.
            ValueError: as `aio`.
        """
        self._check(address)
        plain = socket.create_connection((host_of(address), port_of(address)), timeout_s)
        if self._files.tls is None:
            return plain
        folder = Path(self._files.tls)
        tls = ssl.create_default_context(cafile=folder / CA_NAME)
        tls.load_cert_chain(folder / f"{self._role}.pem", folder / f"{self._role}.key")
        tls.set_alpn_protocols(["h2"])
        try:
            return tls.wrap_socket(plain, server_hostname=SERVER_NAME)
        except OSError:
            plain.close()
            raise

    def _check(self, address: str) -> None:
        check_host("a teacher's host", host_of(address), self._files, remedy=STUDENT_REMEDY)

    def _options(self, address: str) -> Options:
        self._check(address)
        # A proxy of the environment (http_proxy) is for the web, and would route even calls to this
        # machine away from it.
        options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
        if self._tls is not None:
            options.append(("grpc.ssl_target_name_override", SERVER_NAME))
        return options
