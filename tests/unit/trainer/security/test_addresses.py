from __future__ import annotations

import pytest

from trainer.config.teachers import TeachersConfig
from trainer.security.addresses import address_of, check_address, host_of


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1:5"), ("head", "head:5"), ("::1", "[::1]:5")],
)
def test_address_of_ipv6_has_brackets(host: str, address: str) -> None:
    assert address_of(host, 5) == address
    assert host_of(address) == host
    check_address("it", address)


@pytest.mark.parametrize(
    "address",
    [
        "localhost",
        "127.0.0.1:99999",
        "127.0.0.1:0",
        ":5",
        "head:",
        "head:5x",
        "::1:5",
        "head:\u00b2",
    ],
)
def test_directory_that_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"^teachers\.directory must be HOST:PORT .*, got "):
        TeachersConfig(directory=address)
