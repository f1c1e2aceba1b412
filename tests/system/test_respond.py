"""Responses of processes that share the work, and of one that is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.evaluation_fakes import write_student, write_tiny_data

LIMIT_S = 300.0
OPTIONS = ("--classifier", "oracle", "--decoding", "nucleus", "--seed", "4", "--batch-size", "1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("respond")
    data = write_tiny_data(root / "data")
    write_student(root / "student", data.vocabulary, seed=3)
    return root


def start(
    root: Path, output: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trainer.evaluation.respond", "--output", str(output)]
    command += ["--checkpoint", str(root / "student"), "--data", str(root / "data"), *OPTIONS]
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    return said.strip()


@pytest.mark.everything
def test_ranks_and_a_killed_run_write_the_bytes_of_one_process(root: Path) -> None:
    whole, killed, shared = (root / f"{name}.jsonl" for name in ("whole", "killed", "shared"))
    assert finish(start(root, whole)) == str(whole)

    process = start(root, killed)
    parts = root / "killed.jsonl.parts"
    deadline = time.monotonic() + LIMIT_S
    while len(list(parts.glob("0*.json"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)
    assert finish(start(root, killed)) == str(killed)
    assert killed.read_bytes() == whole.read_bytes()

    ranks = [start(root, shared, {"RANK": rank, "WORLD_SIZE": "2"}) for rank in "01"]
    assert str(shared) in [finish(rank) for rank in ranks]
    assert shared.read_bytes() == whole.read_bytes()
    assert not (root / "shared.jsonl.parts").exists()
