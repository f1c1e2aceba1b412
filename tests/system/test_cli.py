"""Real ends of commands and ranks; tests/unit/trainer/common/test_cli.py has every kind of end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.student_runs import ROOT, environment, error_lines, launcher

SCRIPT = """
import atexit
from trainer.common.cli import {run}
from trainer.common.errors import InputError
atexit.register(lambda: print("taken down"))
def main(argv):
    print("done", end="")
    raise InputError("x must be 1, got 2.")
{run}(main)
"""


@pytest.mark.parametrize(("run", "said"), [("run_main", "donetaken down\n"), ("run_rank", "done")])
def test_an_error_is_one_line_and_only_a_rank_leaves_python_as_it_is(run: str, said: str) -> None:
    argv = [sys.executable, "-c", SCRIPT.format(run=run)]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, said)
    assert ended.stderr == "error: x must be 1, got 2.\n"


REPORT_IS_LATE = """
import os, time
from trainer.common.cli import ReportedByOtherRank, run_rank
from trainer.common.errors import InputError
def main(argv):
    if os.environ["LOCAL_RANK"] != "0":
        raise ReportedByOtherRank
    time.sleep(3)
    raise InputError("x must be 1, got 2.")
run_rank(main)
"""


@pytest.mark.everything
def test_rank_that_reports_the_error_is_not_ended_by_one_that_left_before(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(REPORT_IS_LATE)
    argv = [*launcher(2), str(script)]
    env = {**environment(), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode != 0
    assert error_lines(ended) == ["error: x must be 1, got 2."]
