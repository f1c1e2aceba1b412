"""What can only be seen in a process of its own: settings of malloc, and what is imported."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.support.student_runs import ROOT

SCRIPT = """
import os, sys, torch
from cluster.bench.memory.rank_memory import status_bytes
from trainer.engine import host
assert getattr(host, sys.argv[1])()
blocks = [torch.ones(25 << 20) for _ in range(2)]
end_of_heap = torch.ones(25 << 20)
before = status_bytes(os.getpid())["VmRSS"]
blocks.clear()
print((before - status_bytes(os.getpid())["VmRSS"]) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
@pytest.mark.parametrize(
    ("setting", "given_back"),
    [
        ("keep_freed_memory", 0),
        pytest.param("return_freed_memory", 200, marks=pytest.mark.everything),
    ],
)
def test_freed_blocks_are_kept_or_given_back_as_set(setting: str, given_back: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, setting], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    # Two blocks of 100 MiB are freed, and one behind them is not.
    assert abs(int(ended.stdout) - given_back) < 20


def test_without_the_option_the_library_is_not_imported() -> None:
    code = (
        "import sys, trainer.teacher_client.client, teacher_server.replica.service; "
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
