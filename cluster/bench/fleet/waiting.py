"""Waiting for child processes inside an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cluster.launch.child import Child
from trainer.common.errors import MachineError

POLL_S = 0.02
# Three fleets start at once: eleven processes that import torch on two cores took over a minute.
START_S = 240.0
STOP_S = 20.0


async def wait_until(
    condition: Callable[[], bool], child: Child, timeout_s: float = START_S
) -> None:
    """Wait for a condition that a child brings about.

    Raises:
        MachineError: if the child ended before, or time is up.
    """
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        status = child.poll()
        if status is not None or time.monotonic() > deadline_s:
            got = "none in time" if status is None else f"its end with status {status}"
            raise MachineError(
                f"{child.command.name} must come to its next event, got {got}. Its log is "
                f"{child.log}."
            )
        await asyncio.sleep(POLL_S)


async def ended(child: Child, timeout_s: float = STOP_S) -> int:
    """Wait for a child's end; its status. Raises MachineError if it takes too long."""
    deadline_s = time.monotonic() + timeout_s
    while (status := child.poll()) is None:
        if time.monotonic() > deadline_s:
            raise MachineError(f"{child.command.name} must end, got none in {timeout_s:g} s.")
        await asyncio.sleep(POLL_S)
    return status
