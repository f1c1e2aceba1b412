"""The dialogues that demo and benchmarks run on."""

from __future__ import annotations

import sys
from pathlib import Path

from trainer.common.errors import MissingError

DEFAULT_SOURCE = Path("../shared/redial-mini")


def checked_source(folder: Path | None) -> Path | None:
    """The value of --data, if it is None or a folder.

    Raises:
        MissingError: if it is anything else.
    """
    if folder is not None and not folder.is_dir():
        raise MissingError(
            f"--data must be a folder with dialogues, got {folder}. Leave it out for the default."
        )
    return folder


def default_source() -> Path | None:
    """The real dialogues beside the repository; without them None, and a note on stderr."""
    if DEFAULT_SOURCE.is_dir():
        return DEFAULT_SOURCE
    sys.stderr.write(
        f"no --data, and no folder {DEFAULT_SOURCE}: measuring on the SYNTHETIC corpus.\n"
    )
    return None
