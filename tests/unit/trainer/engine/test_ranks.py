"""How the ranks of a run meet."""

from __future__ import annotations

import deepspeed
import pytest

from trainer.common.errors import MachineError
from trainer.engine import ranks


@pytest.fixture(autouse=True)
def one_of_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("keep_freed_memory", "leave_with_launcher", "leave_out_shared_memory"):
        monkeypatch.setattr(ranks, name, lambda: None)
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(key, value)


def fail_with(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(deepspeed, "init_distributed", init)


def test_port_of_another_run_is_one_error_with_the_option_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # torch's own words.
    fail_with(
        "The server socket has failed to listen on any local network address. port: 29500, "
        "useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
        monkeypatch,
    )
    with pytest.raises(MachineError, match=r"port 29500 must be free .*deepspeed --master_port N"):
        ranks.start_distributed()


def test_other_failure_to_meet_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with("Timed out waiting for clients", monkeypatch)
    with pytest.raises(RuntimeError, match="Timed out"):
        ranks.start_distributed()
