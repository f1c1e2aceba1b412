"""A rank that is gone is one line on the others, and one that waits for teachers is not gone."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.bench.fleet.fleet import Served, running_fleet
from tests.support.served_teachers import FittedTeachers
from tests.support.student_runs import SERVED, started, step_lines, student_command
from trainer.engine.heartbeat import LOST_S

pytestmark = pytest.mark.everything
LIMIT_S = 240.0
GONE = "no sign of life"


@contextlib.contextmanager
def training(
    data: Path, output: Path, log: Path, *settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A run of two ranks that has done a step."""
    with started(student_command(data, output, *settings), log) as run:
        wait_for_step(output, 1, run)
        yield run


def wait_for_step(output: Path, step: int, run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not ((output / "metrics.jsonl").exists() and len(step_lines(output)) >= step):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("stopped", ["1", "0"])
def test_rank_that_stands_still_ends_the_others_with_one_line(
    stopped: str, prepared_dir: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    endless = ("distill.gamma=0", "train.steps=100000")
    with training(prepared_dir, tmp_path / "run", log, *endless) as run:
        family = psutil.Process(run.pid).children(recursive=True)
        ranks = [each for each in family if "trainer/main.py" in each.cmdline()]
        victim = next(each for each in ranks if each.environ().get("RANK") == stopped)
        # As a machine without power, it sends nothing: no byte, and no end of its connections.
        victim.send_signal(signal.SIGSTOP)
        assert run.wait(LIMIT_S) != 0
    said = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert re.match(rf"error: all ranks must take part, got {GONE} of rank {stopped} \(", said[0])
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def test_ranks_that_wait_for_teachers_wait_on(
    teachers: FittedTeachers, prepared_dir: Path, tmp_path: Path
) -> None:
    folders = {"dialogue": teachers.dialogue, "recommendation": teachers.recommendation}
    output, log = tmp_path / "run", tmp_path / "log"
    with running_fleet(Served(folders=folders), tmp_path / "fleet") as fleet:
        settings = (*SERVED, f"teachers.directory={fleet.directory}", "train.steps=100000")
        with training(prepared_dir, output, log, *settings) as run:
            for replica in fleet.replicas():
                replica.signal(signal.SIGSTOP)
            time.sleep(1.5 * LOST_S)
            step = len(step_lines(output))
            time.sleep(2.0)
            assert len(step_lines(output)) == step, "it must wait for the teachers"
            for replica in fleet.replicas():
                replica.signal(signal.SIGCONT)
            wait_for_step(output, step + 5, run)
    assert GONE not in log.read_text()
