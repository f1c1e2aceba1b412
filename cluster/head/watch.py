"""Ends the cluster later: after so many hours, or when a run has ended, with no laptop there.

One process on the head looks at a file of wishes; a second wish changes the file, and starts none.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cluster.head.nodes import BOOTSTRAP
from cluster.head.runs import Run, all_runs
from cluster.head.shared import outlives_this_machine, shared_folder
from trainer.common.atomic import write_json
from trainer.common.errors import UserError

WISHES = Path("~/.conkd-watch.json")
LOCK = Path("~/.conkd-watch.lock")
LOG = Path("~/.conkd-watch.log")
PERIOD_S = 10.0
END_TRIES = 60
END_AGAIN_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """When the cluster is to end; None: not for this reason."""

    until_s: float | None = None
    """Unix time."""
    after: str | None = None
    """Name of a run."""
    asked_s: float = 0.0
    """Unix time at which `after` was asked for: an end before it is that of an earlier run."""

    def are_due(self, runs: list[Run], now_s: float) -> bool:
        """Whether one of the reasons is there."""
        ended = {it.name for it in runs if it.ended_s > self.asked_s}
        return self.after in ended or (self.until_s is not None and now_s >= self.until_s)


def ask(*, hours: float | None, after: str | None) -> None:
    """Note what is given beside the wishes that there are, and see to it that they are watched.

    With nothing given: the process that watched may have gone with the head's power.
    """
    wishes = _read()
    if hours is not None:
        wishes = replace(wishes, until_s=time.time() + hours * 3600)
    if after is not None:
        wishes = replace(wishes, after=after, asked_s=time.time())
    if wishes == Wishes():
        return
    write_json(WISHES.expanduser(), asdict(wishes))
    with LOG.expanduser().open("a") as log:
        subprocess.Popen(
            [sys.executable, "-m", "cluster.head", "watcher"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait(sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until a wish is due, then end the cluster; at once if another process waits already."""
    with LOCK.expanduser().open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        while not _read().are_due(_runs() or [], time.time()):
            sleep(PERIOD_S)
    for _ in range(END_TRIES):
        # A cloud may refuse a call; what is not ended goes on to cost.
        if subprocess.run([sys.executable, "-m", "cluster", *end_command()]).returncode == 0:
            return
        sleep(END_AGAIN_S)


def end_command() -> list[str]:
    """The command that ends what costs: all, but for a head whose disk may alone hold a run."""
    kept = ["--workers-only"] if _keeps_head() else []
    return ["down", str(BOOTSTRAP.expanduser()), "--force", *kept]


def _keeps_head() -> bool:
    runs = _runs()
    if runs is None:
        return True
    return not outlives_this_machine(shared_folder().root) and not all(it.pulled for it in runs)


def _runs() -> list[Run] | None:
    """The runs; None while the shared folder cannot be read: hours end a cluster all the same."""
    try:
        return all_runs(shared_folder())
    except (UserError, OSError) as error:
        print(f"runs could not be looked at: {error}", flush=True)
        return None


def _read() -> Wishes:
    path = WISHES.expanduser()
    return Wishes(**json.loads(path.read_text())) if path.is_file() else Wishes()
