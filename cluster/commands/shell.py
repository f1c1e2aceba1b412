"""One host's shell over ssh: what runs there has the environment of its user's ~/.bashrc."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.common.errors import MachineError, UnreachableError

SOURCES = "~/conkd"
SSH_FAILED = 255
CONNECT_S = 10
# Ray's own (SSHOptions), so that both get in where one does: hosts of a cloud have new keys at
# every start. A connection that is cut is noticed after 15 s.
OPTIONS = {
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": os.devnull,
    "LogLevel": "ERROR",
    "IdentitiesOnly": "yes",
    "BatchMode": "yes",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ConnectTimeout": str(CONNECT_S),
}


@dataclass(frozen=True, kw_only=True)
class Shell:
    """The way into one host."""

    address: str
    user: str
    key: str | None = None
    """The private key's file; None: what ssh finds itself."""
    proxy: str | None = None
    """ssh's ProxyCommand, where one host is reached through another."""

    def ssh(self, *, terminal: bool = False) -> list[str]:
        """The ssh command up to the host, for rsync too."""
        options = OPTIONS | ({"ProxyCommand": self.proxy} if self.proxy else {})
        return [
            "ssh",
            *(["-tt"] if terminal else []),
            *(part for name, value in options.items() for part in ("-o", f"{name}={value}")),
            *(["-i", os.path.expanduser(self.key)] if self.key else []),
        ]

    @property
    def target(self) -> str:
        """user@address."""
        return f"{self.user}@{self.address}"

    def call(
        self, argv: Sequence[str], *, stdin: str | None = None, timeout_s: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the sources' folder and take what it prints.

        Raises:
            UnreachableError: if the host does not answer, or not within `timeout_s`.
        """
        return self._run(in_sources(argv), stdin=stdin, timeout_s=timeout_s)

    def script(self, text: str, *, timeout_s: float | None = None) -> str:
        """What a program of Python's standard library prints there; it needs no sources.

        Raises:
            UnreachableError: as `call`.
            MachineError: if it fails.
        """
        done = self._run("python3 -", stdin=text, timeout_s=timeout_s)
        if done.returncode:
            last = (done.stderr.strip() or "nothing").splitlines()[-1]
            raise MachineError(
                f"{self.address} must run Python 3.10 or newer as python3, got status "
                f"{done.returncode}: {last}. Look into that host."
            )
        return done.stdout

    def probe(self, text: str, *, timeout_s: float | None = None) -> str:
        """What a program of the shell prints there; it needs neither sources nor Python.

        Raises:
            UnreachableError: as `call`.
        """
        return self._run("sh -s", stdin=text, timeout_s=timeout_s).stdout

    def show(self, argv: Sequence[str]) -> int:
        """Run a command with this process's stdin, stdout and stderr; its exit status.

        Raises:
            UnreachableError: if the host does not answer.
        """
        done = subprocess.run([*self.ssh(), self.target, in_sources(argv)])
        if done.returncode == SSH_FAILED:
            raise self._unreachable("see above")
        return done.returncode

    def _run(
        self, command: str, *, stdin: str | None, timeout_s: float | None
    ) -> subprocess.CompletedProcess[str]:
        try:
            done = subprocess.run(
                [*self.ssh(), self.target, command],
                capture_output=True,
                text=True,
                timeout=timeout_s,
                # Never this process's own: a terminal's belongs to its user.
                input=stdin or "",
            )
        except subprocess.TimeoutExpired as error:
            raise self._unreachable(f"nothing for {timeout_s:g} s") from error
        if done.returncode == SSH_FAILED:
            raise self._unreachable((done.stderr.strip() or "no answer").splitlines()[-1])
        return done

    def _unreachable(self, got: str) -> UnreachableError:
        return UnreachableError(
            f"{self.target} must answer over ssh, got: {got}. Look whether it is on, and at the "
            "user and key in the cluster's file."
        )


def in_sources(argv: Sequence[str]) -> str:
    """A shell's line that runs a command in ~/conkd with the environment of ~/.bashrc.

    Debian's ~/.bashrc does nothing unless the shell is interactive; an interactive one without a
    terminal complains about that on stderr, which so is given to the command alone.
    """
    inner = f"exec 2>&3 3>&-; cd {SOURCES} && exec {shlex.join(argv)}"
    return f"bash -i -c {shlex.quote(inner)} 3>&2 2>/dev/null"
