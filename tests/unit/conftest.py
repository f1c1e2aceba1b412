from __future__ import annotations

import gc
import multiprocessing.process
import os
import subprocess
from collections.abc import Iterator

import pytest


def pytest_collection() -> None:
    # What is imported now stays: to look for garbage among it, again and again, is time lost.
    gc.disable()


def pytest_collection_finish() -> None:
    # Nor need the tests look at it: a full look at what all the libraries made takes long.
    gc.freeze()
    gc.enable()


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
