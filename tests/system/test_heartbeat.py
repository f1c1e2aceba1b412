"""A rank that is there no more is one line on the others, long before any collective gives up."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.student_runs import started, step_lines, student_command

LIMIT_S = 240.0


def rank_of(process: psutil.Process) -> str:
    return process.environ().get("RANK", "")


@pytest.mark.everything
@pytest.mark.parametrize("stopped", ["1", "0"])
def test_rank_that_stands_still_ends_the_others_with_one_line(
    stopped: str, prepared_dir: Path, tmp_path: Path
) -> None:
    output, log = tmp_path / "run", tmp_path / "log"
    endless = ("distill.gamma=0", "train.steps=100000")
    with started(student_command(prepared_dir, output, *endless), log) as run:
        deadline = time.monotonic() + LIMIT_S
        while not ((output / "metrics.jsonl").exists() and step_lines(output)):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        family = psutil.Process(run.pid).children(recursive=True)
        ranks = [each for each in family if "trainer/main.py" in each.cmdline()]
        victim = next(each for each in ranks if rank_of(each) == stopped)
        # As a machine without power, it sends nothing: no byte, and no end of its connections.
        victim.send_signal(signal.SIGSTOP)
        assert run.wait(LIMIT_S) != 0
    said = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    line = rf"error: all ranks must take part, got no sign of life of rank {stopped} \("
    assert re.match(line, said[0])
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
