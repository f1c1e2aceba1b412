"""One host of a lab: its power switch, its cable, and commands that run on it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from cluster.netns import enter
from cluster.netns.environment import HOME
from cluster.netns.network import Cable, Rate
from cluster.netns.ssh import MACHINE
from cluster.netns.tools import PATH
from trainer.common.errors import MachineError

BOOT = Path(__file__).with_name("boot.sh")
NEW_NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child")
START_S = 60.0
POLL_S = 0.05
TAIL_LINES = 20
LOGIN = '. ~/.bashrc; cd ~/conkd && exec "$@"'
SSH_LISTENS = " 00000000:0016 00000000:0000 0A "


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a host's parts lie on this machine."""

    disk: Path
    """Its home, /tmp and settings; kept without power."""
    venv: Path
    environment: Path
    """Files that it sees in the place of some of `venv`."""
    extensions: Path
    shared: Path | None
    """Folder that all hosts have at /shared."""


class HostProcess(subprocess.Popen[str]):
    """A command that runs on a host. Signals reach the command."""

    def kill(self) -> None:
        """End the command and its children at once.

        What has entered the namespaces for it has to outlive it: nobody else would reap it.
        """
        try:
            started = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if not started:  # not yet: it goes alone
            super().kill()


class Host:
    """A host of a lab.

    Attributes:
        name: as the other hosts know it.
        address: its IPv4 address.
        home: its home folder, as this machine sees it; a host sees it at `environment.HOME`.
        console: file with the output of its pid 1.
    """

    def __init__(self, name: str, *, lab_pid: int, cable: Cable, place: Place) -> None:
        self.name = name
        self.address = cable.address
        self.home = place.disk / "home"
        self.console = place.disk / "console.log"
        self._lab_pid = lab_pid
        self._cable = cable
        self._place = place
        self._boot: subprocess.Popen[str] | None = None
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """Process id of its pid 1, as this machine counts; MachineError without power."""
        if self._pid is None:
            raise MachineError(f"{self.name} must be on, got off. Call its power_on first.")
        return self._pid

    def power_on(self) -> None:
        """Boot; returns when ssh listens."""
        if self._pid is not None:
            raise MachineError(f"{self.name} must be off, got on. Call its power_off first.")
        place = self._place
        folders = (place.disk, place.venv, place.environment, place.extensions, place.shared or "")
        command = ("unshare", *NEW_NAMESPACES, "sh", str(BOOT), self.name, *map(str, folders))
        with self.console.open("a") as console:
            self._boot = subprocess.Popen(
                _entering(self._lab_pid, command),
                env={"PATH": PATH},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=console,
                text=True,
                start_new_session=True,
            )
        assert self._boot.stdout is not None
        pid = self._boot.stdout.readline().strip()
        if not pid:
            self._boot.wait()
            raise MachineError(f"{self.name} must start, got: {self._last_lines()}")
        self._pid = int(pid)
        self._cable.attach(self._pid)
        self._wait_for_ssh()

    def power_off(self) -> None:
        """Cut the power: its link goes down, then all of its processes end at once."""
        pid = self.pid
        assert self._boot is not None and self._boot.stdout is not None
        self._cable.detach()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._boot.wait()
        self._boot.stdout.close()
        self._boot = self._pid = None

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._pid is not None

    def unplug(self) -> None:
        """Take its network cable out."""
        self._cable.plug(plugged=False)

    def plug_in(self) -> None:
        """Put its network cable in again."""
        self._cable.plug(plugged=True)

    def limit(self, *, rate_mbit: float | None = None, delay_ms: float | None = None) -> None:
        """Limit its link, in each direction; None lifts a limit.

        MachineError for a delay where the kernel has no netem.
        """
        self._cable.limit(Rate(mbit=rate_mbit, delay_ms=delay_ms))

    def run(
        self,
        *command: str | Path,
        timeout_s: float = 60.0,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as in a login shell in ~/conkd, and return its output.

        With `check` another exit status than 0 is a MachineError that has the end of the output.
        After `timeout_s` the command is killed: TimeoutError, with the end of the output.
        """
        argv = tuple(map(str, command))
        # Files, not pipes: a daemon that the command leaves may hold them open.
        with _file() as given, _file() as out, _file() as err:
            given.write(stdin)
            given.seek(0)
            process = self._popen(argv, env, stdin=given, stdout=out, stderr=err)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                pass
            finally:
                status = process.poll()
                if status is None:
                    process.kill()
                    process.wait()
            texts = [_content(it) for it in (out, err)]
        what, output = f"{self.name}: {' '.join(argv)}", tail("".join(texts))
        if status is None:
            raise TimeoutError(f"{what} must end within {timeout_s:.0f} s. Its output:\n{output}")
        if check and status:
            raise MachineError(f"{what} must end with 0, got {status}. Its output:\n{output}")
        return subprocess.CompletedProcess(argv, status, *texts)

    def start(
        self, *command: str | Path, log: Path, env: Mapping[str, str] | None = None
    ) -> HostProcess:
        """Start a command as in a login shell in ~/conkd; its output goes on at the end of `log`.

        Signals of the returned process reach the command; it ends with the host's power.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            argv = tuple(map(str, command))
            return self._popen(
                argv, env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def _popen(
        self,
        argv: tuple[str, ...],
        env: Mapping[str, str] | None,
        *,
        stdin: IO[str] | int,
        stdout: IO[str],
        stderr: IO[str] | int,
    ) -> HostProcess:
        shell = ("/bin/bash", "--login", "-c", LOGIN, "bash", *argv)
        user = {"HOME": str(HOME), "USER": "root", "LOGNAME": "root", "SHELL": "/bin/bash"}
        return HostProcess(
            _entering(self.pid, shell),
            env={"PATH": PATH, **user, **MACHINE, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def _wait_for_ssh(self) -> None:
        deadline_s = time.monotonic() + START_S
        sockets = Path(f"/proc/{self.pid}/net/tcp")
        assert self._boot is not None
        while time.monotonic() < deadline_s and self._boot.poll() is None:
            with contextlib.suppress(OSError):
                if SSH_LISTENS in sockets.read_text():
                    return
            time.sleep(POLL_S)
        raise MachineError(
            f"{self.name} must listen for ssh within {START_S:.0f} s, got: {self._last_lines()}"
        )

    def _last_lines(self) -> str:
        return tail(self.console.read_text()) or "no word"


def tail(text: str) -> str:
    """The last lines of an output."""
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def _file() -> IO[str]:
    return tempfile.TemporaryFile("w+", errors="replace")


def _content(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _entering(pid: int, command: tuple[str, ...]) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", enter.__file__, str(pid), *command)
