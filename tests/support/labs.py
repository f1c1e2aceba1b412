"""Labs of hosts for tests: skipped where the machine cannot have one, and CI is not true."""

from __future__ import annotations

import functools
import os

import pytest

from cluster.netns.tools import what_is_missing


@functools.cache
def _missing() -> str | None:
    return what_is_missing()


def need_lab() -> None:
    """Skip with the reason where no lab can be made; under CI=true the test goes on, and fails."""
    missing = _missing()
    if missing is not None and os.environ.get("CI") != "true":
        pytest.skip(missing)
