"""Ranks of several machines listen where the others reach them.

Gloo and NCCL take the address that a machine's own name has. That is 127.0.1.1 where Debian's or
Ubuntu's installer has written /etc/hosts: the ranks of other machines then fail, or wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from trainer.common.errors import MachineError
from trainer.common.interfaces import (
    ELSEWHERE,
    interface_of,
    is_own_loopback,
    own_address_towards,
)

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
Towards = Callable[[str], str | None]


def listen_where_others_are(towards: Towards = own_address_towards) -> None:
    """Name the interface to Gloo and NCCL, unless the user did, or all ranks are on this machine.

    Raises:
        MachineError: if it cannot be known.
    """
    here, all_ranks = os.environ.get("LOCAL_SIZE"), os.environ.get("WORLD_SIZE")
    if here is None or here == all_ranks or any(name in os.environ for name in INTERFACE_VARIABLES):
        return
    master = os.environ["MASTER_ADDR"]
    address = towards(master)
    if address is None or is_own_loopback(address):
        # This is the master, and to it its name means itself: the way to anywhere else counts.
        address = towards(ELSEWHERE)
    if address is None or is_own_loopback(address):
        raise MachineError(
            f"{INTERFACE_VARIABLES[0]} must name the interface to the other machines, got nothing, "
            f"and to this machine {master} is itself. Set it, or give --master_addr as an address."
        )
    os.environ.update(dict.fromkeys(INTERFACE_VARIABLES, interface_of(address)))
