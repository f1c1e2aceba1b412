"""Whether a command can write where it is told to, before it does any work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from trainer.common.errors import InputError


def check_output(what: str, folder: Path) -> None:
    """Raise InputError unless `folder` is, or can become, a folder with files of ours.

    Nothing is made: the nodes of a run look at the same time, and one must not remove what another
    has just found.
    """
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"{what} must be a folder that can be written, got {folder}: {existing}: "
            f"{error.strerror}. Name another one."
        ) from error
