"""A cluster as commands see it: its head, found anew by each command, and what runs there."""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

from cluster.commands.cluster_file import ClusterFile, read_cluster_file
from cluster.commands.shell import Shell
from trainer.common.errors import MachineError, MissingError, UserError, first_line


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
        for tool in ("ssh", "rsync"):
            if shutil.which(tool) is None:
                raise MissingError(f"{tool} must be installed here, got none. Install it.")
        file = self.file
        if file.is_local:
            # Not from Ray's provider: its state is on the machine that ran `up` alone.
            return self._shell(file.head_address, file.config["auth"].get("ssh_private_key"))
        with _provider_errors(file):
            return self._shell(_head_address(file), _private_key(file))

    def workers(self) -> list[Shell]:
        """The ways into all machines of one's own but the head."""
        file = self.file
        assert file.is_local, "only the provider knows the machines of a cloud"
        if "external_head_ip" not in file.provider:
            return [self._shell(address, self.head.key) for address in file.worker_addresses]
        proxy = shlex.join([*self.head.ssh(), "-W", "%h:%p", self.head.target])
        return [
            dataclasses.replace(self._shell(address, self.head.key), proxy=proxy)
            for address in file.worker_addresses
        ]

    def show(self, argv: Sequence[str]) -> int:
        """Run a command on the head with this process's stdin, stdout and stderr; its status."""
        return self.head.show(argv)

    def answer(self, argv: Sequence[str], *, stdin: str | None = None) -> str:
        """What a command prints on the head.

        Raises:
            MachineError: if it fails; its last line on stderr is the message.
        """
        done = self.head.call(argv, stdin=stdin)
        if done.returncode:
            raise MachineError(_told(done.stderr, argv, done.returncode))
        return done.stdout

    def _shell(self, address: str, key: str | None) -> Shell:
        return Shell(address=address, user=self.file.user, key=key)


def _told(stderr: str, argv: Sequence[str], status: int) -> str:
    """The error line of a command of ours, or that it failed."""
    lines = stderr.strip().splitlines()
    for line in lines:
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    last = lines[-1] if lines else "nothing on stderr"
    return f"{shlex.join(argv)[:80]} must succeed on the head, got status {status}: {last}."


def _head_address(file: ClusterFile) -> str:
    from ray.autoscaler.sdk import get_head_node_ip

    return get_head_node_ip(str(file.path))


def _private_key(file: ClusterFile) -> str:
    """The file's, or that of the key pair that Ray made: as `ray attach` finds it."""
    key = file.config["auth"].get("ssh_private_key")
    if key is not None:
        return key
    # Private: no public function tells where Ray keeps the key that it made.
    from ray.autoscaler._private.commands import _bootstrap_config

    return _bootstrap_config(dict(file.config))["auth"]["ssh_private_key"]


@contextmanager
def _provider_errors(file: ClusterFile) -> Iterator[None]:
    """What Ray's provider raises and prints, as one line of ours."""
    import click

    with redirect_stdout(StringIO()):
        try:
            yield
        except UserError:
            raise
        except RuntimeError as error:
            raise MissingError(
                f"the cluster {file.name} must be up, got: {first_line(error)} Start it: python "
                f"-m cluster up {os.fspath(file.path)}"
            ) from error
        except (ImportError, click.ClickException, OSError, ValueError) as error:
            raise MachineError(
                f"the provider of {file.path} must answer, got: {first_line(error)}. Look at its "
                "credentials and region."
            ) from error
