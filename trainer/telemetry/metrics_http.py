"""Serves the metrics of one process to a Prometheus, under the rules of its other ports.

Beyond this machine a port has TLS and asks for the token, or it is not opened; certificates are the
server's of the same folder, and whoever scrapes shows one that its CA has signed. A caller holds a
thread for a while at most, and only some callers at a time: the process has other work.
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

from trainer.security.credentials import CA_NAME, SecurityFiles, check_host, read_credentials

logger = logging.getLogger(__name__)

# From accepting a connection to its end: handshake, request and answer, however slow the caller.
PATIENCE_S = 10.0
# Connections at a time; a Prometheus has one, and another in the seconds when it is replaced.
MAX_OPEN = 16

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


class MetricsServer:
    """An HTTP server in a thread of its own: GET /metrics gives what a registry collects then."""

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
            OSError: if the address cannot be bound.
            ValueError: if it is beyond this machine and nothing protects what is read there, with
                `remedy`; as `trainer.security.credentials.read_credentials`.
        """
        check_host("the metrics' host", host, security, remedy=remedy)
        token = read_credentials(security, "server").token
        try:
            self._server = _Server(host, port)
        except OSError as error:
            raise OSError(
                f"address {host}:{port} must be free for metrics, got: {error}. "
                "Choose another port, or stop what listens there."
            ) from error
        app = make_wsgi_app(registry)
        self._server.set_app(app if token is None else _asking_for(token, app))
        if security.tls is not None:
            self._server.socket = _tls(Path(security.tls)).wrap_socket(
                self._server.socket,
                server_side=True,
                # In the thread of the connection: here a silent caller would hold up all others.
                do_handshake_on_connect=False,
            )
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(WSGIRequestHandler):
    # Of each read and write; it ends a silent connection of a server that is closed, too.
    timeout = PATIENCE_S

    def log_message(self, format: str, *args: object) -> None:
        """A scrape is not news."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each connection, MAX_OPEN at most, and none for longer than PATIENCE_S."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        # Each open connection and when its time is up. Under the lock they are closed and cut off:
        # the number of a closed socket may be another one's already.
        self._deadlines_s: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the name service who we are.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # pyright: ignore
        self.setup_environ()

    def verify_request(self, request: Any, client_address: object) -> bool:
        """Whether there is room for a connection; the base class closes it if there is none."""
        with self._lock:
            if len(self._deadlines_s) >= MAX_OPEN:
                logger.debug("%s refused: %d connections are open", client_address, MAX_OPEN)
                return False
            self._deadlines_s[request] = time.monotonic() + PATIENCE_S
            return True

    def close_request(self, request: Any) -> None:
        """The base class ends every connection here, whatever became of it."""
        with self._lock:
            self._deadlines_s.pop(request, None)
            super().close_request(request)

    def service_actions(self) -> None:
        """Cut off who takes too long; serve_forever calls this twice a second."""
        now_s = time.monotonic()
        with self._lock:
            late = [it for it, deadline_s in self._deadlines_s.items() if deadline_s <= now_s]
            for request in late:
                with contextlib.suppress(OSError):
                    # Not SSLSocket's own, which would have the thread go on in clear text.
                    socket.socket.shutdown(request, socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        # A caller without a certificate, or one that went away: its doing, not ours.
        logger.debug("scrape from %s failed: %r", client_address, sys.exc_info()[1])


def _asking_for(token: str, app: App) -> App:
    """The application for those who bear the token."""
    expected = f"Bearer {token}".encode("ascii")

    def checked(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        sent = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")
        if hmac.compare_digest(sent, expected):
            return app(environ, start_response)
        start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer")])
        return [b"authorization must be the fleet's bearer token, got none or another.\n"]

    return checked


def _tls(folder: Path) -> ssl.SSLContext:
    """Both sides show a certificate of the folder's CA; `read_credentials` has seen the files."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / CA_NAME))
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context
