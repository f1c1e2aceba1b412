"""Scrapes of a real run of two ranks."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.support.scrapes import Samples, scrape
from tests.support.student_runs import error_lines, free_port, run_student, started
from tests.support.student_runs import student_command as student


def of_rank(seen: Samples, rank: int) -> dict[str, float]:
    """Our samples by their short names."""
    labels = frozenset({("rank", str(rank))})
    return {
        name.removeprefix("conkd_student_"): value
        for (name, of), value in seen.items()
        if of == labels
    }


def test_ranks_of_a_run_are_scraped_at_ports_one_after_another(
    prepared_dir: Path, tmp_path: Path
) -> None:
    port = free_port(in_a_row=2)
    settings = ("distill.gamma=0", "train.steps=1000000", f"watch.metrics_port={port}")
    command = student(prepared_dir, tmp_path / "run", *settings)
    with started(command, tmp_path / "log") as training:
        for rank in range(2):
            seen = wait_for_steps(training, f"127.0.0.1:{port + rank}", rank)
            assert seen["tokens_total"] > 0 and seen["step_seconds_total"] > 0
            assert seen["exposed_wait_seconds_total"] < seen["step_seconds_total"]
            assert "requests_total" not in seen
        taken = ("distill.gamma=0", f"watch.metrics_port={port - 1}")
        result = run_student(prepared_dir, tmp_path / "other", *taken)
        assert result.returncode != 0
        (line,) = error_lines(result)
        assert f"address 127.0.0.1:{port} must be free for metrics" in line


def wait_for_steps(training: subprocess.Popen[bytes], address: str, rank: int) -> dict[str, float]:
    """A rank's samples once it has done a step."""
    while training.poll() is None:
        try:
            seen = of_rank(scrape(address), rank)
        except OSError:
            seen = {"steps_total": 0.0}
        if seen["steps_total"]:
            return seen
        time.sleep(0.1)
    raise AssertionError(f"the run must go on, got its end with {training.returncode}")
