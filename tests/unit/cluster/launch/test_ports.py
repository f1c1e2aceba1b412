from __future__ import annotations

import socket

import pytest

from cluster.launch import ports
from cluster.launch.ports import PORTS, free_port


def test_free_port_and_those_after_it_can_be_bound() -> None:
    port = free_port(in_a_row=2)
    for each in (port, port + 1):
        with socket.create_server(("127.0.0.1", each)):
            assert each in PORTS


def test_free_port_passes_over_those_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port(in_a_row=3)
    monkeypatch.setattr(ports, "PORTS", range(port, port + 3))
    with socket.create_server(("127.0.0.1", port + 1)):
        assert {free_port() for _ in range(20)} <= {port, port + 2}
        with pytest.raises(OSError, match="2 ports in a row must be free"):
            free_port(in_a_row=2)
