"""Who holds a TCP port of this machine."""

from __future__ import annotations

import psutil

UNSEEN = "a process that this user may not see"


def port_holder(port: int) -> str:
    """The process that listens on a local port, or that an outgoing connection gave it to.

    UNSEEN where no process can be seen to hold it, or none does.
    """
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return UNSEEN
    held = [it for it in connections if it.laddr and it.laddr.port == port]
    # A listener first: its connections have the same port.
    held.sort(key=lambda it: it.status != psutil.CONN_LISTEN)
    pids = [it.pid for it in held if it.pid is not None]
    if not pids:
        return UNSEEN
    try:
        return f"process {pids[0]} ({psutil.Process(pids[0]).name()})"
    except psutil.Error:
        return f"process {pids[0]}, which has just ended"
