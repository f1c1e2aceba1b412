"""Copies of folders between laptop and head, which go on where they were broken off."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from cluster.commands.shell import Shell
from trainer.common.errors import UnreachableError

# Links as what they name. A file grows in its place, so that what is half there is gone on with.
# The other end of a dead connection ends too.
OPTIONS = ("--recursive", "--times", "--copy-links", "--inplace", "--delete", "--timeout=60")
VANISHED = 24
"""rsync's status if a file went while it was copied."""


def copy_up(shell: Shell, folder: Path, remote: str, *, skipped: str, exact: bool) -> None:
    """Make a remote folder what a local one is.

    Args:
        shell: the remote host's.
        folder: the local one.
        remote: path of the other.
        skipped: an entry of the folder that is left out; empty: none.
        exact: compare content, not size and time.
    """
    _rsync(shell, f"{folder}/", f"{shell.target}:{remote}/", without=skipped, exact=exact)


def copy_down(shell: Shell, remote: str, folder: Path, *, kept: str, exact: bool) -> None:
    """Make a local folder what a remote one is, but for one entry of its own that is kept."""
    _rsync(shell, f"{shell.target}:{remote}/", f"{folder}/", without=kept, exact=exact)


def _rsync(shell: Shell, source: str, target: str, *, without: str, exact: bool) -> None:
    argv = [
        *("rsync", *OPTIONS),
        *([f"--exclude=/{without}"] if without else []),
        *(["--checksum"] if exact else []),
        *("--rsh", shlex.join(shell.ssh()), source, target),
    ]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode not in (0, VANISHED):
        last = (done.stderr.strip() or "nothing on stderr").splitlines()[-1]
        raise UnreachableError(
            f"rsync must reach {shell.target}, got status {done.returncode}: {last}. The same "
            "command goes on where this one ended."
        )
