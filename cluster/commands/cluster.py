"""A cluster as commands see it: its head, found anew by each command, and what runs there."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from cluster.commands.cloud_nodes import head_address, private_key
from cluster.commands.cluster_file import ClusterFile, read_cluster_file
from cluster.commands.shell import Shell
from trainer.common.errors import MachineError, MissingError

TOOLS = ("ssh", "rsync")
NOT_FOUND = 127
"""A shell's status if there is no such program."""
ERROR = "error: "
"""How `run_main` begins an error of the user's."""


class Cluster:
    """The cluster of one file for Ray's launcher."""

    def __init__(self, path: Path) -> None:
        self.file: ClusterFile = read_cluster_file(path)

    @functools.cached_property
    def head(self) -> Shell:
        """The way into the head.

        Raises:
            MissingError: if the cluster has none.
            MachineError: if the provider does not answer.
        """
        for tool in TOOLS:
            if shutil.which(tool) is None:
                raise MissingError(f"{tool} must be installed here, got none. Install it.")
        file = self.file
        known = file.head_address
        # Of one's own machines not from Ray's provider: what it knows is where `up` ran alone.
        key = file.config["auth"].get("ssh_private_key") if known else private_key(file)
        return self._shell(known or head_address(file), key)

    def workers(self) -> list[Shell]:
        """The ways into all machines of one's own but the head."""
        shells = [self._shell(it, self.head.key) for it in self.file.worker_addresses]
        if not self.file.is_behind_head:
            return shells
        proxy = shlex.join([*self.head.ssh(), "-W", "%h:%p", self.head.target])
        return [dataclasses.replace(shell, proxy=proxy) for shell in shells]

    def show(self, argv: Sequence[str]) -> int:
        """Run a command on the head with this process's stdin, stdout and stderr; its status.

        Raises:
            MissingError: if the head has no environment.
        """
        # Without a terminal there, tables keep to the width of this one.
        columns = f"COLUMNS={shutil.get_terminal_size().columns}"
        status = self.head.show(["env", columns, *argv])
        self._check_environment(status)
        return status

    def answer(self, argv: Sequence[str], *, stdin: str | None = None) -> str:
        """What a command prints on the head.

        Raises:
            MissingError: if the head has no environment.
            MachineError: if the command fails; its error line is the message.
        """
        done = self.head.call(argv, stdin=stdin)
        self._check_environment(done.returncode)
        if done.returncode:
            raise _told(done.stderr, argv, done.returncode)
        return done.stdout

    def _check_environment(self, status: int) -> None:
        if status == NOT_FOUND:
            raise MissingError(
                f"the head of {self.file.name} must be set up, got no environment in ~/conkd. Run: "
                f"python -m cluster up {self.file.path}"
            )

    def _shell(self, address: str, key: str | None) -> Shell:
        return Shell(address=address, user=self.file.user, key=key)


def _told(stderr: str, argv: Sequence[str], status: int) -> MachineError:
    """The error line of a command of ours and what stands below it, or that it failed."""
    lines = stderr.strip().splitlines()
    for place, line in enumerate(lines):
        if line.startswith(ERROR):
            return MachineError(line.removeprefix(ERROR), details=lines[place + 1 :])
    last = lines[-1] if lines else "nothing on stderr"
    return MachineError(
        f"{shlex.join(argv)[:80]} must succeed on the head, got status {status}: {last}."
    )
