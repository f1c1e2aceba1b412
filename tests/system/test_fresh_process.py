"""What only a process of its own can show: settings of malloc, and which modules are imported."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from cluster.bench.memory.bench import RETURN_FREED_MEMORY
from tests.support.student_runs import ROOT

SCRIPT = """
import os, torch
from cluster.bench.memory.rank_memory import status_bytes
from trainer.engine.host import keep_freed_memory
kept = keep_freed_memory()
blocks = [torch.ones(25 << 20) for _ in range(2)]
end_of_heap = torch.ones(25 << 20)
before = status_bytes(os.getpid())["VmRSS"]
blocks.clear()
print(kept, (before - status_bytes(os.getpid())["VmRSS"]) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
@pytest.mark.parametrize(
    ("environment", "kept", "given_back"),
    [
        ({}, True, 0),
        pytest.param(RETURN_FREED_MEMORY, False, 200, marks=pytest.mark.everything),
    ],
)
def test_freed_blocks_are_kept_unless_the_environment_tunes_malloc(
    environment: dict[str, str], kept: bool, given_back: int
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    was_kept, mib = ended.stdout.split()
    assert was_kept == str(kept)
    # Two blocks of 100 MiB are freed, and one behind them is not.
    assert abs(int(mib) - given_back) < 20


def test_recommendation_replica_starts_without_the_models_of_transformers() -> None:
    code = (
        "import sys, cluster.bench.fleet.replica, teacher_server.scoring.teachers; "
        "print(*sys.modules.keys() & {'trainer.models.language_model', 'torch_geometric', "
        "'transformers.modeling_utils', 'transformers.models.gpt2.modeling_gpt2'})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == []


def test_without_the_option_the_library_is_not_imported() -> None:
    code = (
        "import sys, trainer.teacher_client.client, teacher_server.replica.service; "
        "print(*[name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == []


@pytest.mark.everything
def test_benchmark_where_nobody_named_an_accelerator_keeps_stdout_for_its_answer() -> None:
    # As a user of a machine without a GPU, where DeepSpeed looks for one and says so.
    environment = {key: it for key, it in os.environ.items() if key != "DS_ACCELERATOR"}
    code = (
        "import cluster.bench.__main__ as bench; "
        "bench.NAMES = (); bench.main(['all', '--json']); "
        "import deepspeed; deepspeed.logger.warning('later')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    assert "later" in ended.stderr
