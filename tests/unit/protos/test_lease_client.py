"""A teacher without Ray is listed while it serves, whatever happens to the Directory."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos import lease_client
from protos.lease_client import leased
from protos.teacher_pb2 import Endpoint
from teacher_server.fleet import directory_server
from teacher_server.fleet.directory_server import DirectoryServer, fetch_fleet
from teacher_server.fleet.leases import Lease
from trainer.teacher_client.loop import Loop

ENDPOINT = Endpoint(kind="dialogue", address="127.0.0.1:7000", replica_id="go-1", model="Llama")
LIMIT_S = 60.0


class Directories:
    """Directories one after another on one port, on a loop beside the test."""

    _server: DirectoryServer
    _renew: Callable[[Lease], Coroutine[Any, Any, None]]

    def __init__(self) -> None:
        self._loop = Loop("directory")
        self._port = 0
        self.renewals = 0
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        async def start() -> int:
            # Leases outlast the test, on a machine that stalls, too.
            self._server = DirectoryServer(settle_s=0.0, lease_s=600.0)
            self._renew, self._server.service.renew = self._server.service.renew, self._count
            return await self._server.start("127.0.0.1", self._port)

        self._port = self._loop.run(start())

    async def _count(self, lease: Lease) -> None:
        self.renewals += 1
        await self._renew(lease)

    def stop(self) -> None:
        self._loop.run(self._server.stop(0.0))

    def close(self) -> None:
        self.stop()
        self._loop.close()

    def open_channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self.address)

    def listed(self) -> list[Endpoint]:
        return fetch_fleet(self.address, 5.0)


@pytest.fixture
def directories(monkeypatch: pytest.MonkeyPatch) -> Iterator[Directories]:
    monkeypatch.setattr(directory_server, "RENEW_S", 0.05)
    directories = Directories()
    yield directories
    directories.close()


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_teacher_is_listed_for_as_long_as_it_serves(directories: Directories) -> None:
    with leased(directories.open_channel, ENDPOINT):
        assert directories.listed() == [ENDPOINT]
        eventually(lambda: directories.renewals > 3)
        assert directories.listed() == [ENDPOINT]
    assert directories.listed() == []


def test_teacher_joins_a_directory_that_restarts(
    directories: Directories, caplog: pytest.LogCaptureFixture
) -> None:
    with leased(directories.open_channel, ENDPOINT):
        directories.stop()
        eventually(lambda: "must renew the lease of" in caplog.text)
        directories.start()
        eventually(lambda: directories.listed() == [ENDPOINT])
    assert directories.listed() == []
    assert caplog.text.count("must renew the lease of") == 1


def test_teacher_leaves_without_a_directory(directories: Directories) -> None:
    with leased(directories.open_channel, ENDPOINT):
        directories.stop()
    directories.start()
    assert directories.listed() == []


def test_name_that_another_teacher_has_is_one_error(directories: Directories) -> None:
    with leased(directories.open_channel, ENDPOINT):
        with (
            pytest.raises(ValueError, match=r"must take go-1, got ALREADY_EXISTS: replica_id must"),
            leased(directories.open_channel, ENDPOINT),
        ):
            pytest.fail("it must not be listed")
        assert directories.listed() == [ENDPOINT]


def test_no_directory_is_one_error() -> None:
    with (
        pytest.raises(OSError, match="the Directory must take go-1, got UNAVAILABLE"),
        leased(lambda: grpc.insecure_channel("127.0.0.1:1"), ENDPOINT),
    ):
        pytest.fail("it must not be listed")


def test_lease_client_needs_the_contract_and_grpc_alone() -> None:
    tree = ast.parse(Path(lease_client.__file__).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in modules if name and name.startswith(("protos", "trainer", "teacher"))}
    assert ours == {"protos.teacher_pb2", "protos.teacher_pb2_grpc", "trainer.common.errors"}
