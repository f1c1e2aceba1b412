"""Commands of `python -m teacher_server`, as a user types them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from protos import teacher_pb2

COMMAND_S = 180


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "teacher_server", *map(str, arguments)]


def run(*arguments: str | Path, fails: bool = False, software: Path | None = None) -> str:
    """Output of a command that must succeed, or the one line of error of one that must not.

    `software`: a folder with a release of ours (releases.py), to run instead of this tree.
    """
    done = subprocess.run(
        command(*arguments),
        cwd=software,
        env=environment(software),
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
    )
    assert done.returncode == (2 if fails else 0), done.stderr
    if fails:
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr if fails else done.stdout


def environment(software: Path | None = None) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return kept if software is None else {**kept, "PYTHONPATH": str(software)}


def replicas(endpoints: list[teacher_pb2.Endpoint], kind: str) -> set[str]:
    return {endpoint.replica_id for endpoint in endpoints if endpoint.kind == kind}
