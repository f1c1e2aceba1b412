"""Serves the metrics of one process to a Prometheus, under the rules of its other ports.

Beyond this machine a port has TLS and asks for the token, or it is not opened; certificates are the
server's of the same folder, and whoever scrapes shows one that its CA has signed.
"""

from __future__ import annotations

import hmac
import logging
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from trainer.credentials import CA_NAME, SecurityFiles, check_host, read_credentials

logger = logging.getLogger(__name__)

# Of a whole connection: a caller who says nothing holds a thread for so long.
PATIENCE_S = 10.0

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
                `remedy`; as `trainer.credentials.read_credentials`.
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
    timeout = PATIENCE_S

    def log_message(self, format: str, *args: object) -> None:
        """A scrape is not news."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the name service who we are.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # pyright: ignore
        self.setup_environ()

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
