"""Writes a run's log and its supervisor's state, in a thread of its own.

The shared folder may stand still, with the head if that serves it: the beats, which keep the ranks
alive, must not wait for it. What the folder says is read here, too.
"""

from __future__ import annotations

import dataclasses
import queue
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.students.progress import last_step, log_identity, newest_checkpoint
from cluster.students.run_files import LOG_NAME, RunState, read_state, write_state
from trainer.common.errors import MissingError

LOOK_S = 2.0
CLOSE_S = 30.0
# Of ranks that go on while the folder stands still; what comes beyond is counted.
MAX_LINES = 100_000


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the folder said last."""

    has_begun: bool
    """Whether an attempt of this run has trained."""
    step: int = 0
    checkpoint: int = 0
    """Step of the newest whole checkpoint."""
    is_replaced: bool = False
    """A later supervisor of the run is at work."""
    problem: str = ""
    """Why the last write failed; empty: it did not."""


class Journal:
    """The shared folder of one run, written by its one supervisor.

    Attributes:
        seen: what the folder said last.
    """

    def __init__(self, folder: Path, state: RunState) -> None:
        self._folder = folder
        self._state = state
        self._identity = log_identity(folder)
        self._lines: queue.Queue[str] = queue.Queue(MAX_LINES)
        self._unwritten: list[str] = []
        self._num_dropped = 0
        self._due = threading.Event()
        self._closed = False
        self.seen = Seen(has_begun=state.has_begun, checkpoint=newest_checkpoint(folder))
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def start(self) -> None:
        """Write from now on."""
        self._thread.start()

    def event(self, text: str, state: RunState) -> None:
        """A line about the run itself, with the time, and the state that it leads to."""
        self._put(f"{time.strftime('%H:%M:%S')} {text}")
        self._state = dataclasses.replace(state, message=text)
        self._due.set()

    def lines(self, lines: Sequence[str]) -> None:
        """What ranks said."""
        for line in lines:
            self._put(line)
        if lines:
            self._due.set()

    def _put(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._num_dropped += 1

    def close(self) -> None:
        """Write what is left, if the folder takes it."""
        self._closed = True
        self._due.set()
        self._thread.join(timeout=CLOSE_S)

    def _run(self) -> None:
        is_written = False
        while not is_written and not self.seen.is_replaced:
            self._due.wait(timeout=LOOK_S)
            self._due.clear()
            is_last = self._closed
            try:
                self.seen = self._look()
                if not self.seen.is_replaced:
                    self._write()
                is_written = is_last
            except (OSError, ValueError) as error:
                # Lines that were not written stay, and come at the next look.
                self._note_problem(str(error))

    def _note_problem(self, problem: str) -> None:
        """Once: in the actor's own log now, and in the run's when it can be written again."""
        if problem != self.seen.problem:
            text = f"the run's folder must be readable and writable, got: {problem}"
            sys.stderr.write(f"{text}. It is tried every {LOOK_S:g} s.\n")
            self._put(text)
        self.seen = dataclasses.replace(self.seen, problem=problem)

    def _look(self) -> Seen:
        """What others have written: a later supervisor, and the ranks."""
        try:
            epoch = read_state(self._folder).epoch
        except MissingError:
            epoch = 0
        has_begun = self.seen.has_begun or log_identity(self._folder) != self._identity
        return Seen(
            has_begun=has_begun,
            step=last_step(self._folder) if has_begun else 0,
            checkpoint=newest_checkpoint(self._folder),
            is_replaced=epoch > self._state.epoch,
        )

    def _write(self) -> None:
        while len(self._unwritten) < MAX_LINES and not self._lines.empty():
            self._unwritten.append(self._lines.get_nowait())
        dropped, lines = self._num_dropped, self._unwritten
        if dropped:
            lines = [*lines, f"{dropped} lines more came while the folder could not be written"]
        with (self._folder / LOG_NAME).open("a", encoding="utf-8", errors="replace") as log:
            log.writelines(f"{line}\n" for line in lines)
        self._unwritten.clear()
        self._num_dropped -= dropped
        seen = self.seen
        state = dataclasses.replace(
            self._state, has_begun=seen.has_begun, step=seen.step, updated=time.time()
        )
        write_state(self._folder, state)
