"""Whether a command can write where it is told to, before it does any work."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_output(what: str, folder: Path) -> None:
    """Raise ValueError unless `folder` is, or can become, a folder with files of ours.

    Nothing is left of the try.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{what} must be a folder that can be written, got {folder}: {error.strerror}. "
            "Name another one."
        ) from error
    finally:
        for each in missing:
            if each.is_dir():
                each.rmdir()
