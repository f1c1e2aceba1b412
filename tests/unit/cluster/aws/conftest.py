from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.aws.roles import AwsFile, read_aws_file
from cluster.aws.session import Aws
from cluster.aws.setup import SetupOptions, open_account
from tests.support.fake_aws import FILE, FakeAws, fake_aws_server, gpu_config, start_over


@pytest.fixture(scope="session")
def server() -> Iterator[FakeAws]:
    with fake_aws_server() as aws:
        yield aws


@pytest.fixture
def empty(server: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeAws:
    """An account in which nothing was made."""
    start_over(server, monkeypatch, tmp_path)
    return server


@pytest.fixture(scope="module")
def ready(server: FakeAws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeAws]:
    """An account that is set up: for tests that change nothing of it."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        start_over(server, patch, home)
        file = read_aws_file(FILE, gpu_config())
        account = open_account(server.clients, file, SetupOptions(), ssh_folder=home / ".ssh")
        account.carry_out(account.plan(), lambda _: None)
        server.calls.clear()
        yield server


@pytest.fixture
def file() -> AwsFile:
    return read_aws_file(FILE, gpu_config())


@pytest.fixture
def clients(empty: FakeAws) -> Aws:
    return empty.clients
