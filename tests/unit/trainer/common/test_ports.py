"""Who holds a port."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

from trainer.common.ports import port_holder


def test_listener_and_outgoing_connection_are_named_by_their_process() -> None:
    ours = f"process {os.getpid()} ({psutil.Process().name()})"
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert port_holder(server.getsockname()[1]) == ours
        with socket.create_connection(server.getsockname()) as client:
            assert port_holder(client.getsockname()[1]) == ours


def test_holder_that_may_not_be_seen_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: str) -> None:
        raise psutil.AccessDenied

    for connections in (refuse, lambda kind: []):
        monkeypatch.setattr(psutil, "net_connections", connections)
        assert port_holder(1) == "a process that this user may not see"
