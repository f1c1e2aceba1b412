"""A command as a child process, together with everything that it starts."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cluster.launch import reaper

POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Command:
    """One child process to run."""

    name: str
    """Shown to the user; also the name of the log file."""
    argv: tuple[str, ...]
    env: Mapping[str, str | None] = field(default_factory=dict)
    """Added to our environment; None removes a variable."""
    cwd: Path | None = None


class Child:
    """A running command in a session of its own, below a reaper that adopts its orphans.

    Attributes:
        command: what was started.
        pid: process id of the command, which is also the id of its process group.
        log: file with the command line and the output.
    """

    def __init__(self, command: Command, log: Path) -> None:
        """Start the command; OSError if its program cannot be executed."""
        self.command = command
        self.log = log
        self._started_s = time.monotonic()
        self._status: int | None = None
        self._records, report = os.pipe()
        try:
            self._reaper = _start_reaper(command, log, report)
        except BaseException:
            os.close(self._records)
            raise
        finally:
            os.close(report)
        self.pid = self._read_start()
        os.set_blocking(self._records, False)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started_s

    def poll(self) -> int | None:
        """Exit status of the command, negative for a signal; None while it runs."""
        if self._status is None:
            with contextlib.suppress(BlockingIOError):
                record = self._read_record()
                if record is None:
                    # The reaper was killed before its command ended; nobody else would end it.
                    self.signal_group(signal.SIGKILL)
                self._status = record[1] if record is not None else self._reaper.wait()
                os.close(self._records)
        else:
            self._reaper.poll()  # reaps it once it has ended
        return self._status

    def wait(self) -> int:
        """Block until the command has ended; its exit status."""
        while (status := self.poll()) is None:
            time.sleep(POLL_S)
        return status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command itself if it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def signal_group(self, number: int) -> bool:
        """Send a signal to the process group of the command; False if the group is empty.

        Members are reaped at once, and a process is reaped after its last thread: an empty group
        holds no memory, port or device any more. Signal 0 only tests for members.
        """
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False  # macOS reports EPERM if only a zombie is left.
        return True

    def descendants(self) -> set[psutil.Process]:
        """Live processes that the command started, daemons included, and the command itself."""
        try:
            return set(psutil.Process(self._reaper.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return set()

    def has_descendants(self) -> bool:
        """Whether the command or a process that it started is left: the reaper waits for them."""
        return self._reaper.poll() is None

    def _read_start(self) -> int:
        record = self._read_record()
        if record is not None and not record[0]:
            return record[1]
        os.close(self._records)
        self._reaper.wait()
        error = record[0] if record is not None else errno.ECHILD
        raise OSError(error, os.strerror(error), self.command.argv[0])

    def _read_record(self) -> tuple[int, int] | None:
        """The next record, or None if the reaper ended without one."""
        content = os.read(self._records, reaper.RECORD.size)
        return reaper.RECORD.unpack(content) if content else None


def _start_reaper(command: Command, log: Path, report: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **command.env}
    with log.open("wb") as file:
        file.write(f"$ {shlex.join(command.argv)}\n".encode())
        file.flush()
        return subprocess.Popen(
            (sys.executable, "-I", "-S", reaper.__file__, str(report), *command.argv),
            env={key: value for key, value in environment.items() if value is not None},
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(report,),
        )
