"""Code that torch-geometric writes for its layers, and leaves behind in the temporary folder."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def generated_code_removed() -> Iterator[None]:
    """Inside, temporary files go to a folder that is removed at the end.

    torch-geometric has loaded its code by then, and needs the file no more.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="conkd-code-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
