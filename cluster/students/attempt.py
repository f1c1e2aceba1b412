"""One attempt of a run: the ranks of all its nodes, from their start to their end or a loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.students.node import NodeStart
from cluster.students.node_link import NodeLink

POLL_S = 0.2
Ending = Literal["done", "failed", "lost", "grow", "stopped", "replaced"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    ending: Ending
    text: str = ""
    exit_status: int = 0
    silent_nodes: tuple[str, ...] = ()
    """Ray's ids of the nodes that do not answer: Ray may not know yet that they are lost."""
    free_s: float = 0.0
    """From when on no rank of this attempt can run, by the supervisor's clock."""


Interrupt = Callable[[], Outcome | None]
"""What else ends an attempt: somebody stops the run, or it may be on more nodes."""


def run_attempt(
    links: Sequence[NodeLink],
    *,
    slots: int,
    argv: tuple[str, ...],
    on_lines: Callable[[int, Sequence[str]], None],
    interrupt: Interrupt,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Start the ranks and stay with them; when it returns they have ended, or will by `free_s`."""
    try:
        start_all(links, slots=slots, argv=argv)
        outcome = watch(links, on_lines=on_lines, interrupt=interrupt, wait=wait)
    except BaseException:
        stop_all(links, on_lines=on_lines, clock=clock)
        raise
    free_s = stop_all(links, on_lines=on_lines, clock=clock)
    return Outcome(
        ending=outcome.ending,
        text=outcome.text,
        exit_status=outcome.exit_status,
        silent_nodes=outcome.silent_nodes,
        free_s=free_s,
    )


def start_all(links: Sequence[NodeLink], *, slots: int, argv: tuple[str, ...]) -> None:
    """Start the launchers side by side; the ranks meet at the first node."""
    first = links[0].place
    starts = [
        NodeStart(
            node_rank=rank,
            nodes=len(links),
            slots=slots,
            master_address=first.address,
            master_port=first.port,
            argv=argv,
        )
        for rank in range(len(links))
    ]
    greeted = [link.greet() for link in links]
    pending = [
        link.start(start, each) for link, start, each in zip(links, starts, greeted, strict=True)
    ]
    for link, each in zip(links, pending, strict=True):
        link.started(each)


def watch(
    links: Sequence[NodeLink],
    *,
    on_lines: Callable[[int, Sequence[str]], None],
    interrupt: Interrupt,
    wait: Callable[[float], None],
) -> Outcome:
    """Beat to all nodes until the attempt has an outcome."""
    failed_at: dict[int, int] = {}
    while True:
        for rank, link in enumerate(links):
            on_lines(rank, link.poll())
        outcome = _lost(links) or _ended(links, failed_at) or interrupt()
        if outcome is not None:
            return outcome
        wait(POLL_S)


def stop_all(
    links: Sequence[NodeLink],
    *,
    on_lines: Callable[[int, Sequence[str]], None],
    clock: Callable[[], float],
) -> float:
    """End all ranks; from when on none can run: now, unless a node did not say that they ended."""
    pending = [None if link.lost else link.stop() for link in links]
    free_s = clock()
    for rank, (link, each) in enumerate(zip(links, pending, strict=True)):
        last = None if each is None else link.stopped(each)
        on_lines(rank, last or ())
        free_s = max(free_s, link.free_s if last is None else 0.0)
    return free_s


def _lost(links: Sequence[NodeLink]) -> Outcome | None:
    lost = [link for link in links if link.lost or link.lease_is_over]
    if not lost:
        return None
    reasons = [
        f"{link.place.host} ({link.place.address}): "
        f"{link.lost or 'it heard nothing from the supervisor, and has ended its ranks'}"
        for link in lost
    ]
    return Outcome(
        ending="lost",
        text=f"student node lost: {'; '.join(reasons)}",
        silent_nodes=tuple(link.place.node_id for link in lost if link.is_silent),
    )


def _ended(links: Sequence[NodeLink], failed_at: dict[int, int]) -> Outcome | None:
    """The end of all launchers, or of one with an error while every other node lives.

    A rank also fails because another one's machine is gone: that is known as soon as that machine
    misses a beat. So the others must answer a beat that was sent after the failure was seen.
    """
    statuses = [link.exit_status for link in links]
    if all(status == 0 for status in statuses):
        return Outcome(ending="done")
    failed = [rank for rank, status in enumerate(statuses) if status]
    if not failed:
        return None
    for rank, link in enumerate(links):
        failed_at.setdefault(rank, link.sent)
    if not all(link.answered > failed_at[rank] for rank, link in enumerate(links)):
        return None
    # Of several the first one that says what is wrong: a status of ours before a signal's.
    rank = min(failed, key=lambda each: (statuses[each] != 2, each))
    status = statuses[rank] or 1
    status = status if status > 0 else 128 - status
    place = links[rank].place
    return Outcome(
        ending="failed",
        text=f"ranks on {place.host} ({place.address}) ended with status {status}",
        exit_status=status,
    )
