"""Ranks that notice within 30 s that another one is gone, instead of waiting for it for hours.

A rank whose machine lost its power sends nothing any more, no reset either: the others would wait
in a collective until its timeout, and that must be longer than any wait for teachers. So a thread
of each rank beats, whatever the rank is doing: one that waits for teachers, reads a model or writes
a checkpoint beats on, and only one that is gone, or stopped, does not.

The beats are counters in the store at which the ranks meet. It is there in every run, with Ray and
without; it takes the way over the network that the collectives take; and whether a file of a shared
folder is fresh depends on the caches of every machine, and on the file server. Rank 0, which has
the store, looks at all; the others look at rank 0, and read there whom it misses.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from trainer.common.cli import EXIT_ERROR

BEAT_S = 2.0
LOST_S = 25.0
# Between two looks of a process that was not stopped itself.
PAUSE_S = 10.0
# An answer that does not come is looked for again on a new connection.
ANSWER_S = 10.0
# The rank that says why must end last on its node: the launcher ends all when one has.
SAY_S = 3.0
LEFT = 1 << 40
GONE_KEY = "conkd/gone"


class Store(Protocol):
    """What of torch's TCPStore is used."""

    def add(self, key: str, value: int, /) -> int:
        """Add to a counter; its new value."""
        ...

    def set(self, key: str, value: str, /) -> None:
        """Set a text."""
        ...

    def get(self, key: str, /) -> bytes:
        """The text."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Whether all keys are there."""
        ...


Connect = Callable[[], Store]
Leave = Callable[[str], None]
"""Ends this process; the error to show, or empty: another rank shows it."""


class Pulses:
    """When each rank was last heard of. A rank that has not begun to beat is not missed."""

    def __init__(self, lost_s: float = LOST_S) -> None:
        self._lost_s = lost_s
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}
        self._heard_s: dict[int, float] = {}
        self._looked_s: float | None = None

    def note(self, rank: int, count: int, now_s: float) -> None:
        """The counter of a rank has a value."""
        with self._lock:
            if count and count != self._counts.get(rank):
                self._counts[rank] = count
                self._heard_s[rank] = now_s

    def lost(self, now_s: float) -> list[int]:
        """Ranks whose beat has stopped; those that have left are not among them."""
        with self._lock:
            if self._looked_s is not None and now_s - self._looked_s > PAUSE_S:
                # This process was stopped, and has heard of nobody meanwhile.
                self._heard_s = dict.fromkeys(self._heard_s, now_s)
            self._looked_s = now_s
            return [
                rank
                for rank, heard_s in sorted(self._heard_s.items())
                if now_s - heard_s > self._lost_s and self._counts[rank] < LEFT
            ]


class Heart:
    """Beats of this rank, and a look at those of others.

    Two threads: an answer of a machine that is gone is waited for in the kernel, for minutes.
    """

    def __init__(self, rank: int, ranks: int, *, connect: Connect, leave: Leave) -> None:
        self._rank, self._ranks = rank, ranks
        self._connect, self._leave = connect, leave
        self._pulses = Pulses()
        self._hosts: dict[int, str] = {}
        self._answers = 0
        self._missed = ""
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"heart-{name}", daemon=True)
            for name, target in (("beat", self._beat), ("look", self._look))
        ]

    def start(self) -> None:
        """Beat from now on, as soon as rank 0 has its store."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """This rank leaves as it should: nobody is to miss it."""
        self._stopped.set()
        self._threads[0].join(timeout=BEAT_S)

    def exchange(self, store: Store) -> None:
        """One beat, and what others' beats say."""
        leaves = self._stopped.is_set()
        store.add(_beat_key(self._rank), LEFT if leaves else 1)
        if self._rank:
            self._answers += 1
            self._pulses.note(0, self._answers, time.monotonic())
            if 0 not in self._hosts:
                self._hosts[0] = store.get(_host_key(0)).decode()
            if store.check([GONE_KEY]) and not leaves:
                self._leave("")
            return
        for rank in range(1, self._ranks):
            count = store.add(_beat_key(rank), 0)
            self._pulses.note(rank, count, time.monotonic())
            if count and rank not in self._hosts:
                self._hosts[rank] = store.get(_host_key(rank)).decode()
        if self._missed:
            # While this rank says so, the others end without a word.
            store.set(GONE_KEY, self._missed)

    def look(self, now_s: float) -> None:
        """Leave if a rank is gone; rank 0 says so to all others while it does."""
        lost = self._pulses.lost(now_s)
        if not lost:
            return
        names = [f"rank {rank} ({self._hosts.get(rank, 'its machine')})" for rank in lost]
        self._missed = ", ".join(names)
        self._leave(
            f"all ranks must take part, got no sign of life of {self._missed} for "
            f"{LOST_S:.0f} s. Look at that machine; the same command goes on from the last "
            "checkpoint."
        )

    def _beat(self) -> None:
        store: Store | None = None
        while True:
            try:
                if store is None:
                    store = self._connect()
                    store.set(_host_key(self._rank), socket.gethostname())
                self.exchange(store)
            except (RuntimeError, OSError):
                store = None  # What is silent for too long is gone: `look` decides.
            if self._stopped.wait(BEAT_S):
                break
        if store is not None:
            with contextlib.suppress(RuntimeError, OSError):
                self.exchange(store)

    def _look(self) -> None:
        while not self._stopped.wait(BEAT_S / 2):
            self.look(time.monotonic())


@contextlib.contextmanager
def heartbeat(timeout_s: float) -> Iterator[None]:
    """Around all that the ranks of a run do together; nothing for a rank that is alone.

    `timeout_s`: how long rank 0 may need to open its store.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1 or "MASTER_PORT" not in os.environ:
        yield
        return
    rank = int(os.environ["RANK"])
    heart = Heart(rank, ranks, connect=_connector(timeout_s), leave=_leave_process)
    heart.start()
    try:
        yield
    finally:
        heart.stop()


def _connector(first_s: float) -> Connect:
    from torch.distributed import TCPStore

    waits = iter([first_s])

    def connect() -> Store:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=datetime.timedelta(seconds=next(waits, ANSWER_S)),
            wait_for_workers=False,
        )
        store.set_timeout(datetime.timedelta(seconds=ANSWER_S))
        return store

    return connect


def _leave_process(error: str) -> None:
    rank, local = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    # The first of each node that lives: beside a lost rank 0 the next one.
    if error and (local == 0 or rank == local == 1):
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
    if error:
        time.sleep(SAY_S)
    # A checkpoint that is being written is torn, and the one before it stays.
    os._exit(EXIT_ERROR)


def _beat_key(rank: int) -> str:
    return f"conkd/beat/{rank}"


def _host_key(rank: int) -> str:
    return f"conkd/host/{rank}"
