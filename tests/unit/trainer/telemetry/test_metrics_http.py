"""Who may read metrics, over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from tests.support.scrapes import fetch_secured, scrape, told_text
from tests.support.secure_fleet import OTHER_TOKEN, TOKEN, files, write_two_sets
from trainer.security.credentials import NO_SECURITY, SERVER_NAME, SecurityFiles
from trainer.telemetry import metrics_http
from trainer.telemetry.metrics_http import MetricsServer


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    write_two_sets(folder)
    return folder


def serve(host: str, security: SecurityFiles, port: int = 0, text: str = "of all") -> MetricsServer:
    registry = CollectorRegistry()
    Gauge("answer", text, registry=registry).set(42)
    return MetricsServer(registry, host=host, port=port, security=security, remedy="Mend it.")


@pytest.fixture
def secured(root: Path) -> Iterator[MetricsServer]:
    server = serve("127.0.0.1", files(root))
    yield server
    server.close()


def fetch(address: str, root: Path, *, identity: str | None, token: str | None) -> str:
    ca = root / "ours" / "ca.pem"
    return fetch_secured(
        address, ca=ca, client=None if identity is None else root / identity, token=token
    )


def test_metrics_with_certificate_and_token_are_told(secured: MetricsServer, root: Path) -> None:
    told = fetch(secured.address, root, identity="ours", token=TOKEN)
    assert told.startswith("HTTP/1.0 200") and "answer 42.0" in told


@pytest.mark.parametrize("token", [None, OTHER_TOKEN, "\xff"])
def test_metrics_without_the_token_are_not(
    secured: MetricsServer, root: Path, token: str | None
) -> None:
    told = fetch(secured.address, root, identity="ours", token=token)
    assert told.startswith("HTTP/1.0 401") and "answer" not in told


@pytest.mark.parametrize("identity", [None, "theirs"])
def test_metrics_without_a_certificate_of_the_ca_are_not(
    secured: MetricsServer, root: Path, identity: str | None
) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        fetch(secured.address, root, identity=identity, token=TOKEN)


def test_a_caller_who_says_nothing_holds_up_nobody(secured: MetricsServer, root: Path) -> None:
    host, port = secured.address.split(":")
    with socket.create_connection((host, int(port)), 10):
        assert "answer" in fetch(secured.address, root, identity="ours", token=TOKEN)


def is_cut_off(connection: socket.socket, part: bytes) -> bool:
    """Whether the other side ends a connection within 20 s on which it is sent part after part."""
    connection.settimeout(0.1)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(TimeoutError):
            try:
                connection.sendall(part)
                if not connection.recv(1):
                    return True
            except (ConnectionError, ssl.SSLError):
                return True
    return False


def is_told_in_time(address: str) -> bool:
    """Whether there is room for one more scrape before a single write would be given up (10 s)."""
    until = time.monotonic() + 8
    while time.monotonic() < until:
        with contextlib.suppress(OSError, http.client.HTTPException):
            # Not its samples: the parser takes a second for the longest text.
            return told_text(address).endswith("\nanswer 42.0\n")
    return False


def test_a_request_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_http, "PATIENCE_S", 0.5)
    server = serve("127.0.0.1", NO_SECURITY)
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), 10) as slow:
        slow.sendall(b"GET /metrics HTTP/1.0\r\nX: ")
        assert is_cut_off(slow, b"x")
    server.close()


def test_a_request_over_tls_that_never_ends_is_cut_off(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_http, "PATIENCE_S", 0.5)
    server = serve("127.0.0.1", files(root))
    host, port = server.address.split(":")
    context = ssl.create_default_context(cafile=str(root / "ours" / "ca.pem"))
    context.load_cert_chain(root / "ours" / "client.pem", root / "ours" / "client.key")
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME) as slow,
    ):
        slow.sendall(b"GET /metrics HTTP/1.0\r\nX: ")
        assert is_cut_off(slow, b"x")
    server.close()


@pytest.mark.everything
def test_a_caller_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough for what is read; see is_told_in_time.
    monkeypatch.setattr(metrics_http, "PATIENCE_S", 2.0)
    monkeypatch.setattr(metrics_http, "MAX_OPEN", 1)
    # More than the buffers of both sockets hold.
    server = serve("127.0.0.1", NO_SECURITY, text="x" * (1 << 24))
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), 10) as deaf:
        deaf.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert is_told_in_time(server.address)
    server.close()


def test_connections_beyond_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_http, "MAX_OPEN", 2)
    server = serve("127.0.0.1", NO_SECURITY)
    host, port = server.address.split(":")
    with contextlib.ExitStack() as held:
        first, _ = (
            held.enter_context(socket.create_connection((host, int(port)), 10)) for _ in range(2)
        )
        third = held.enter_context(socket.create_connection((host, int(port)), 10))
        assert is_cut_off(third, b"")
        first.close()
        assert is_told_in_time(server.address)
    server.close()


def test_metrics_beyond_this_machine_without_protection_are_refused() -> None:
    with pytest.raises(ValueError, match=r"metrics' host must be a loopback .* Mend it\."):
        serve("0.0.0.0", NO_SECURITY)
    server = serve("0.0.0.0", SecurityFiles(insecure=True))
    port = server.address.split(":")[1]
    assert scrape(f"127.0.0.1:{port}") == {("answer", frozenset()): 42.0}
    server.close()


def test_metrics_on_a_taken_port_are_refused() -> None:
    server = serve("127.0.0.1", NO_SECURITY)
    with pytest.raises(OSError, match=f"{server.address} must be free for metrics"):
        serve("127.0.0.1", NO_SECURITY, port=int(server.address.split(":")[1]))
    server.close()
