"""Ranks on devices that their user did not allow."""

from __future__ import annotations

import pytest

from trainer.common.errors import InputError
from trainer.engine.own_devices import check_allowed

UUIDS = ["GPU-aa", "GPU-bb", "GPU-cc"]


@pytest.mark.parametrize(
    ("given", "taken"),
    [(None, "0,1"), ("", "0"), ("2,1", "1,2"), ("GPU-cc,GPU-bb", "1"), ("1", "1")],
)
def test_ranks_on_allowed_devices_pass(given: str | None, taken: str) -> None:
    check_allowed(given, taken, lambda: UUIDS)


@pytest.mark.parametrize(
    ("given", "taken", "include"),
    [("1", "0", "localhost:1 "), ("2,1", "0,1", "localhost:2,1 "), ("GPU-cc", "0", "localhost:2 ")],
)
def test_rank_on_another_device_is_refused_with_the_option_that_helps(
    given: str, taken: str, include: str
) -> None:
    with pytest.raises(InputError, match=rf"{given}, got {taken}: .*--include {include}instead"):
        check_allowed(given, taken, lambda: UUIDS)
