"""Ranks end with the `deepspeed` command that started them, whatever ended it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.student_runs import started, step_lines, student_command


@pytest.mark.everything
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ranks_leave_once_the_deepspeed_command_has_ended(
    number: signal.Signals, prepared_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    endless = ("distill.gamma=0", "train.steps=100000")
    with started(student_command(prepared_dir, output, *endless), tmp_path / "log") as run:
        deadline = time.monotonic() + 120
        while not ((output / "metrics.jsonl").exists() and step_lines(output)):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        family = psutil.Process(run.pid).children(recursive=True)
        assert sum("trainer/main.py" in each.cmdline() for each in family) >= 2
        run.send_signal(number)
        _, alive = psutil.wait_procs(family, timeout=30)
    # What is left would write into the folder of the next run.
    assert [each.pid for each in alive if "trainer/main.py" in each.cmdline()] == []
    assert "leaves: the deepspeed command that started it has ended" in (
        (tmp_path / "log").read_text()
    )
