"""Metrics read over real sockets, as a Prometheus reads them."""

from __future__ import annotations

import socket
import ssl
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from trainer.security.credentials import SERVER_NAME

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""By name and labels."""


def scrape(address: str) -> Samples:
    """Every sample that is told without any secret."""
    return samples(told_text(address))


def told_text(address: str) -> str:
    """What is told without any secret, as it comes."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return answer.read().decode()


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of_rank(seen: Samples, rank: int) -> dict[str, float]:
    """The samples of one rank of a student, by their short names."""
    labels = frozenset({("rank", str(rank))})
    return {
        name.removeprefix("conkd_student_"): value
        for (name, of), value in seen.items()
        if of == labels
    }


def fetch_secured(address: str, *, ca: Path, client: Path | None, token: str | None) -> str:
    """The whole answer, head and body.

    Args:
        address: host:port.
        ca: file of the authority to believe, whatever the host's name.
        client: folder of the certificate to show, if any.
        token: to bear, if any.
    """
    context = ssl.create_default_context(cafile=str(ca))
    if client is not None:
        context.load_cert_chain(client / "client.pem", client / "client.key")
    host, port = address.split(":")
    bearer = "" if token is None else f"Authorization: Bearer {token}\r\n"
    received = b""
    # No resolver knows the servers' name: it goes with the connection, as Prometheus' server_name.
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME) as tls,
    ):
        tls.sendall(f"GET /metrics HTTP/1.0\r\n{bearer}\r\n".encode())
        while part := tls.recv(1 << 16):
            received += part
    return received.decode()
