"""Where ranks of several machines listen."""

from __future__ import annotations

import os

import pytest

from trainer.common.errors import MachineError
from trainer.common.interfaces import ELSEWHERE, interface_of, own_address_towards
from trainer.engine import own_interface
from trainer.engine.own_interface import INTERFACE_VARIABLES, listen_where_others_are

LOOPBACK = interface_of("127.0.0.1")
NAMES = {"10.0.0.5": "eth0", "10.1.0.5": "eth1"}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in INTERFACE_VARIABLES:
        # So that what is set meanwhile goes with the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("LOCAL_SIZE", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "node-1")
    monkeypatch.setattr(own_interface, "interface_of", NAMES.__getitem__)


def chosen() -> list[str | None]:
    return [os.environ.get(name) for name in INTERFACE_VARIABLES]


def test_rank_listens_on_the_interface_towards_the_master() -> None:
    listen_where_others_are({"node-1": "10.0.0.5", ELSEWHERE: "10.1.0.5"}.get)
    assert chosen() == ["eth0", "eth0"]


def test_master_whose_name_is_its_loopback_takes_the_way_out() -> None:
    listen_where_others_are({"node-1": "127.0.0.1", ELSEWHERE: "10.1.0.5"}.get)
    assert chosen() == ["eth1", "eth1"]


def test_master_without_a_way_out_asks_for_the_interface() -> None:
    with pytest.raises(MachineError, match="GLOO_SOCKET_IFNAME must name the interface"):
        listen_where_others_are({"node-1": "127.0.0.1"}.get)


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    listen_where_others_are({"node-1": "10.0.0.5"}.get)
    assert chosen() == [None, "ib0"]


@pytest.mark.parametrize("local_size", ["2", None])
def test_ranks_of_one_machine_are_left_alone(
    local_size: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if local_size is None:
        monkeypatch.delenv("LOCAL_SIZE")
    else:
        monkeypatch.setenv("LOCAL_SIZE", local_size)
    listen_where_others_are({}.get)
    assert chosen() == [None, None]


def test_address_towards_this_machine_is_its_loopback() -> None:
    assert own_address_towards("127.0.0.1") == "127.0.0.1"
