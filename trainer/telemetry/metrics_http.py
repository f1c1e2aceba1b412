"""Serves the metrics of one process to Prometheus, under the rules of its other ports.

Beyond this machine a port has TLS and requires the bearer token, or it is not opened. The server's
certificate is that of the same folder; a client must show one signed by its CA. Connections are
bounded in number and in time. prometheus_client's own server has no token and no timeouts, and its
handshake happens on the accepting thread, where one silent client blocks all others.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from trainer.common.errors import MachineError
from trainer.security.credentials import CA_NAME, SecurityFiles, check_host, read_credentials

logger = logging.getLogger(__name__)

# From accepting a connection to its end: handshake, request and answer.
PATIENCE_S = 10.0
# So often late connections are looked for; closing waits for as long.
POLL_S = 0.1
# Connections at a time; a Prometheus has one, two while it is replaced.
MAX_OPEN = 16

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


class MetricsServer:
    """An HTTP server in a thread of its own: GET /metrics collects from a registry."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        host: str,
        port: int,
        security: SecurityFiles,
        remedy: str,
    ) -> None:
        """Listen on host:port (0: a free one).

        Raises:
            MachineError: if the address cannot be bound.
            ValueError: if it is beyond this machine and not protected, with `remedy`; as
                `trainer.security.credentials.read_credentials`.
        """
        check_host("the metrics' host", host, security, remedy=remedy)
        token = read_credentials(security, "server").token
        try:
            self._server = _Server(host, port)
        except OSError as error:
            raise MachineError(
                f"address {host}:{port} must be free for metrics, got: {error}. "
                "Choose another port, or stop what listens there."
            ) from error
        app = make_wsgi_app(registry)
        self._server.set_app(app if token is None else _with_token(token, app))
        if security.tls is not None:
            self._server.socket = _tls(Path(security.tls)).wrap_socket(
                self._server.socket,
                server_side=True,
                # In the connection's thread: on this one a silent client would block all others.
                do_handshake_on_connect=False,
            )
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(WSGIRequestHandler):
    # Of each read and write; it also ends silent connections of a closed server.
    timeout = PATIENCE_S

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not logged."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each connection, MAX_OPEN at most, and none for longer than PATIENCE_S."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        # Deadline of each open connection. The lock is held to close and to cut off: the number of
        # a closed socket may already belong to another one.
        self._deadlines_s: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which looks up this host's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # pyright: ignore
        self.setup_environ()

    def verify_request(self, request: Any, client_address: object) -> bool:
        """Whether there is room for a connection; if not, the base class closes it."""
        with self._lock:
            if len(self._deadlines_s) >= MAX_OPEN:
                logger.debug("%s refused: %d connections are open", client_address, MAX_OPEN)
                return False
            self._deadlines_s[request] = time.monotonic() + PATIENCE_S
            return True

    def close_request(self, request: Any) -> None:
        """Called by the base class at the end of every connection."""
        with self._lock:
            self._deadlines_s.pop(request, None)
            super().close_request(request)

    def service_actions(self) -> None:
        """Cut off late connections; serve_forever calls this after each POLL_S."""
        now_s = time.monotonic()
        with self._lock:
            late = [it for it, deadline_s in self._deadlines_s.items() if deadline_s <= now_s]
            for request in late:
                with contextlib.suppress(OSError):
                    # Not SSLSocket's own, after which the thread would go on in clear text.
                    socket.socket.shutdown(request, socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        # A client without a certificate, or one that disconnected: no error of this process.
        logger.debug("scrape from %s failed: %r", client_address, sys.exc_info()[1])


def _with_token(token: str, app: App) -> App:
    """The application, for requests with the bearer token alone."""
    expected = f"Bearer {token}".encode("ascii")

    def checked(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        sent = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")
        if hmac.compare_digest(sent, expected):
            return app(environ, start_response)
        start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer")])
        return [b"authorization must be the fleet's bearer token, got none or another.\n"]

    return checked


def _tls(folder: Path) -> ssl.SSLContext:
    """Both sides show a certificate of the folder's CA; `read_credentials` has read the files."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / CA_NAME))
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context
