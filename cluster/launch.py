"""Runs the commands of a longer job as child processes, and leaves none of them behind.

A child gets a session of its own, so that a Ctrl-C in the terminal reaches only us and we decide
in which order things end: SIGTERM to the child's process group, a time of grace, then SIGKILL.
Descendants that left the group (daemons) are found by a mark in their environment.
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import TextIO

import psutil

from cluster.screen import Screen, duration, last_lines

GRACE_S = 10.0
# Below what Linux, unless set up otherwise, chooses from for whoever names no port, and above the
# ports that Ray chooses by itself.
PORTS = range(20_000, 32_000)
PORT_TRIES = 100
POLL_S = 0.1
TAIL_LINES = 20
# Of a thread in /proc: zombie, dead.
ENDED_STATES = ("Z", "X", "x")
# What reading from /proc says of one that ended meanwhile.
ENDED_ERRORS = (FileNotFoundError, ProcessLookupError)
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CommandFailed(ChildProcessError):
    """A command that ended with another status than 0."""

    def __init__(self, message: str, tail: str) -> None:
        super().__init__(message)
        self.tail = tail
        """The last lines of its log."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One child process to run."""

    name: str
    """What the user reads, and the name of the log file."""
    argv: tuple[str, ...]
    env: Mapping[str, str | None] = field(default_factory=dict)
    """Added to our environment; None takes a variable out."""
    cwd: Path | None = None


@dataclass(frozen=True, eq=False)
class Child:
    """A command that was started."""

    command: Command
    process: subprocess.Popen[bytes]
    log: Path
    started_s: float

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_s


def free_port(in_a_row: int = 1) -> int:
    """The first of so many TCP ports on which nothing on this machine listens now.

    Who names no port is not given one of them while the command that is told of it starts.

    Raises:
        OSError: if none is found.
    """
    for _ in range(PORT_TRIES):
        first = PORTS.start + secrets.randbelow(len(PORTS) - in_a_row + 1)
        if all(_is_free(port) for port in range(first, first + in_a_row)):
            return first
    raise OSError(
        f"{in_a_row} ports in a row must be free in [{PORTS.start}, {PORTS.stop}), got none in "
        f"{PORT_TRIES} tries. What listens on this machine: ss -ltn"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Launcher:
    """Runs commands; on leaving the context everything that they started has ended.

    Must be entered in the main thread. SIGINT becomes KeyboardInterrupt, SIGTERM and SIGHUP become
    SystemExit(128 + signal), both raised only where no child can be lost; one more signal while
    children are being stopped cuts the grace short.
    """

    def __init__(self, log_dir: Path, *, screen: TextIO, grace_s: float = GRACE_S) -> None:
        self._log_dir = log_dir
        self._screen = Screen(screen)
        self._grace_s = grace_s
        self._mark = f"CONKD_LAUNCHER_{uuid.uuid4().hex}"
        self._busy = False
        self._beside: list[Child] = []
        self._signals: list[int] = []
        self._handlers: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Launcher:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        for number in STOP_SIGNALS:
            # nohup and background shells ignore some signals on purpose.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._busy = True
        self._stop([child for child in self._beside if child.process.poll() is None])
        self._sweep()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None:
            self._raise_pending()

    def run(
        self, *lanes: Sequence[Command], on_success: Callable[[Command], None] | None = None
    ) -> None:
        """Run lanes of commands: lanes side by side, the commands of one lane in order.

        Raises:
            CommandFailed: when a command fails; all others are stopped first.
        """
        waiting = [deque(lane) for lane in lanes if lane]
        running: dict[Child, deque[Command]] = {}
        self._busy = True
        try:
            for lane in waiting:
                running[self._start(lane.popleft())] = lane
            while running:
                self._raise_pending()
                for child in [it for it in running if it.process.poll() is not None]:
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
            self._busy = False

    def start(self, command: Command) -> Child:
        """Start a command that runs beside others until it ends or the context is left."""
        child = self._start(command)
        self._beside.append(child)
        return child

    def _start(self, command: Command) -> Child:
        log = self._log_dir / f"{command.name.replace(' ', '-')}.log"
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **command.env, self._mark: "1"}
        with log.open("wb") as file:
            file.write(f"$ {shlex.join(command.argv)}\n".encode())
            file.flush()
            process = subprocess.Popen(
                command.argv,
                env={key: value for key, value in environment.items() if value is not None},
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Child(command, process, log, time.monotonic())

    def _check_ended(self, child: Child) -> None:
        status = child.process.returncode
        if status == 0:
            self._screen.say(f"  {child.command.name:<28} {duration(child.elapsed_s):>10}")
            return
        got = str(status) if status > 0 else signal.Signals(-status).name
        raise CommandFailed(
            f"{child.command.name} must exit with 0, got {got} after {duration(child.elapsed_s)}. "
            f"Its log is {child.log}; the command was: {shlex.join(child.command.argv)}",
            "\n".join(last_lines(child.log, TAIL_LINES)),
        )

    def _stop(self, children: Collection[Child]) -> None:
        """End the process groups of children and reap them."""
        for child in children:
            _signal_group(child, signal.SIGTERM)
        self._wait_while(lambda: any(_group_exists(child) for child in children))
        for child in children:
            _signal_group(child, signal.SIGKILL)
            child.process.wait()
        self._wait_while(lambda: any(_group_runs(child) for child in children), killed=True)

    def _sweep(self) -> None:
        """End whatever carries our mark: daemons of a child, or a child that was half started."""
        found: set[psutil.Process] = set()
        for number in (signal.SIGTERM, signal.SIGKILL):
            # Once seen is enough: a process that ends loses its mark first, and runs on while its
            # memory is given back.
            found.update(_marked(self._mark))
            for process in found:
                _signal(process, number)
            self._wait_while(
                lambda: bool(_marked(self._mark)) or any(map(_runs, found)),
                killed=number == signal.SIGKILL,
            )

    def _wait_while(self, condition: Callable[[], bool], *, killed: bool = False) -> None:
        """Wait for the condition to end, for the grace, or for one more signal.

        Who was killed is on the way out, which no grace of the caller's makes faster.
        """
        grace_s = max(self._grace_s, GRACE_S) if killed else self._grace_s
        deadline_s = time.monotonic() + grace_s
        num_signals = len(self._signals)
        while condition() and time.monotonic() < deadline_s and len(self._signals) == num_signals:
            time.sleep(POLL_S)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        if not self._busy:
            self._raise_pending()

    def _raise_pending(self) -> None:
        if not self._signals:
            return
        number = self._signals[0]
        self._signals.clear()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def _signal_group(child: Child, number: signal.Signals) -> None:
    try:
        os.killpg(child.process.pid, number)
    except (ProcessLookupError, PermissionError):
        return  # All of it has ended; macOS says EPERM where only a zombie is left.


def _group_exists(child: Child) -> bool:
    child.process.poll()
    try:
        os.killpg(child.process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _group_runs(child: Child) -> bool:
    """Whether a process of the group has not ended; only Linux tells, elsewhere none has."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return any(_group(pid) == child.process.pid and _threads_run(pid) for pid in pids)


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _runs(process: psutil.Process) -> bool:
    """Whether it, and not another one of its number, has not ended with all of its threads."""
    return process.is_running() and _threads_run(process.pid)


def _threads_run(pid: int) -> bool:
    """Whether a thread of a process has not ended; those of a zombie have (Linux only)."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except ENDED_ERRORS:
        return False
    for thread in threads:
        try:
            state = (thread / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except ENDED_ERRORS:
            continue
        if state not in ENDED_STATES:
            return True
    return False


def _marked(mark: str) -> set[psutil.Process]:
    """Live processes that inherited the mark; only Linux tells, elsewhere there are none."""
    entry = f"{mark}=1".encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            # Known before it is read, so that its number cannot come to mean another one.
            process = psutil.Process(int(path.parent.name))
            if entry in path.read_bytes().split(b"\0"):
                found.add(process)
        except (OSError, psutil.NoSuchProcess):
            continue  # It ended meanwhile, or belongs to another user.
    return found


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
