"""Run the commands of a longer job as child processes, and leave none of them behind.

A command has a session of its own, so that a Ctrl-C in the terminal reaches only this process,
which decides in which order things end: SIGTERM to the command's process group, a time of grace,
then SIGKILL. Descendants that left the group (daemons) end with the context.
"""

from __future__ import annotations

import contextlib
import functools
import shlex
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

import psutil

from cluster.launch.child import POLL_S, Child, Command
from cluster.launch.screen import Screen, duration, last_lines
from cluster.launch.signals import StopSignals
from trainer.common.errors import MachineError

GRACE_S = 10.0
TAIL_LINES = 20


class CommandFailed(MachineError):
    """A command that ended with another status than 0."""

    def __init__(self, message: str, tail: str) -> None:
        super().__init__(message)
        self.tail = tail
        """The last lines of its log."""


class Launcher:
    """Runs commands; on leaving the context everything that they started has ended.

    Other children of this process are left alone. Must be entered in the main thread. SIGINT
    becomes KeyboardInterrupt, SIGTERM and SIGHUP become SystemExit(128 + signal), both raised only
    where no child can be lost; one more signal while children are being stopped cuts the grace
    short.
    """

    def __init__(self, log_dir: Path, *, screen: TextIO, grace_s: float = GRACE_S) -> None:
        self._log_dir = log_dir
        self._screen = Screen(screen)
        self._grace_s = grace_s
        self._signals = StopSignals()
        self._children: list[Child] = []

    def __enter__(self) -> Launcher:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._signals.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._signals.held():
            self._stop([child for child in self._children if child.poll() is None])
            self._end_daemons()
            self._signals.restore()
        if kind is None:
            self._signals.raise_pending()

    def run(
        self, *lanes: Sequence[Command], on_success: Callable[[Command], None] | None = None
    ) -> None:
        """Run lanes of commands: lanes side by side, the commands of one lane in order.

        Raises:
            CommandFailed: when a command fails; all others are stopped first.
        """
        waiting = [deque(lane) for lane in lanes if lane]
        running: dict[Child, deque[Command]] = {}
        with self._signals.held():
            try:
                for lane in waiting:
                    running[self._start(lane.popleft())] = lane
                while running:
                    self._signals.raise_pending()
                    for child in [it for it in running if it.poll() is not None]:
                        self._check_ended(child)
                        lane = running.pop(child)
                        if on_success is not None:
                            on_success(child.command)
                        if lane:
                            running[self._start(lane.popleft())] = lane
                    self._screen.show([(it.command.name, it.log, it.elapsed_s) for it in running])
                    time.sleep(POLL_S)
            finally:
                self._screen.clear()
                self._stop(running)

    def start(self, command: Command) -> Child:
        """Start a command that runs beside others until it ends or the context is left."""
        with self._signals.held():
            child = self._start(command)
        self._signals.raise_pending()
        return child

    def _start(self, command: Command) -> Child:
        child = Child(command, self._log_dir / f"{command.name.replace(' ', '-')}.log")
        self._children.append(child)
        return child

    def _check_ended(self, child: Child) -> None:
        status = child.wait()
        if status == 0:
            self._screen.write(f"  {child.command.name:<28} {duration(child.elapsed_s):>10}")
            return
        got = str(status) if status > 0 else signal.Signals(-status).name
        raise CommandFailed(
            f"{child.command.name} must exit with 0, got {got} after {duration(child.elapsed_s)}. "
            f"Its log is {child.log}; the command was: {shlex.join(child.command.argv)}",
            "\n".join(last_lines(child.log, TAIL_LINES)),
        )

    def _stop(self, children: Collection[Child]) -> None:
        """End the process groups of children, and wait for the children themselves."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in children:
                child.signal_group(number)
            self._wait_while(lambda: any(it.signal_group(0) for it in children), number)
        for child in children:
            child.wait()

    def _end_daemons(self) -> None:
        """End all that the children have left, in any process group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._wait_while(functools.partial(self._signal_daemons, number, set()), number)

    def _signal_daemons(self, number: signal.Signals, signalled: set[psutil.Process]) -> bool:
        """Signal each daemon once, new ones at the next call too; whether any is left."""
        left = [child for child in self._children if child.has_descendants()]
        for process in {it for child in left for it in child.descendants()} - signalled:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.send_signal(number)
            signalled.add(process)
        return bool(left)

    def _wait_while(self, condition: Callable[[], bool], sent: signal.Signals) -> None:
        """Wait until the condition is false, the grace is over or one more signal arrives.

        After SIGKILL always wait for at least the default grace period.
        """
        grace_s = max(self._grace_s, GRACE_S) if sent == signal.SIGKILL else self._grace_s
        deadline_s = time.monotonic() + grace_s
        received = self._signals.num_received
        while condition() and time.monotonic() < deadline_s:
            if self._signals.num_received != received:
                return
            time.sleep(POLL_S)
