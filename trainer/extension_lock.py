"""Builds of torch extensions, one process at a time, with a lock that dies with its owner.

torch guards a build with a plain file that a killed process leaves behind; every later run would
then wait for it without a word. Here an flock is held around the build, and under it a file that is
found can only be such a leftover.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from torch.utils.cpp_extension import get_default_build_root

LOCK_NAME = "conkd.lock"


@contextlib.contextmanager
def exclusive_build(name: str) -> Iterator[None]:
    """Hold the right to build or load the extension `name`; waits for whoever holds it."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # One folder per version of Python and device lies between the root and the extension.
        for leftover in [*root.glob(f"{name}/lock"), *root.glob(f"*/{name}/lock")]:
            leftover.unlink()
        yield
