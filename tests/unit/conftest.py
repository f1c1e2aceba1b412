from __future__ import annotations

import multiprocessing.process
import os
import subprocess
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def no_process() -> Iterator[None]:
    """No unit test starts a process: on slow cores one with torch in it takes seconds."""

    def refuse(*_: object, **__: object) -> None:
        # An OSError, so that a library that could do without the process does.
        raise PermissionError("a unit test must start no process, got one. Move it to tests/system")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", refuse)
        patch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
        patch.setattr(os, "fork", refuse)
        yield
