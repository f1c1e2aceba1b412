"""Hosts that are this machine: processes of the benchmark `scaling` without namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class LoopbackHost:
    """Starts commands here, as cluster.netns.host.Host does on a host of its own."""

    address = "127.0.0.1"

    def start(
        self, *command: str | Path, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command in the repository, with our interpreter as `python`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable if part == "python" else str(part) for part in command]
        with log.open("a") as file:
            return subprocess.Popen(
                argv,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
            )
