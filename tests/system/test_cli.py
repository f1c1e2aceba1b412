from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.student_runs import ROOT, environment, error_lines, launcher
from trainer.common.errors import first_line

SCRIPT = """
import atexit, sys
from trainer.common.cli import {run}
atexit.register(lambda: print("taken down"))
def main(argv):
    print("done", end="")
    {ending}
{run}(main)
"""


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        ("pass", 0, ""),
        ("raise ValueError('x must be 1, got 2.')", 2, "error: x must be 1, got 2.\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise SystemExit(2)", 2, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit('no such thing')", 1, "no such thing\n"),
    ],
)
@pytest.mark.parametrize(("run", "said"), [("run_main", "donetaken down\n"), ("run_rank", "done")])
def test_commands_and_ranks_end_alike_but_ranks_leave_python_as_it_is(
    run: str, said: str, ending: str, code: int, told: str
) -> None:
    script = SCRIPT.format(run=run, ending=ending)
    argv = [sys.executable, "-c", script]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, said, told)


REPORT_IS_LATE = """
import os, time
from trainer.common.cli import ReportedByOtherRank, run_rank
def main(argv):
    if os.environ["LOCAL_RANK"] != "0":
        raise ReportedByOtherRank
    time.sleep(3)
    raise ValueError("x must be 1, got 2.")
run_rank(main)
"""


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


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("\nno room\nat /x"), "no room"), (ValueError(" "), "ValueError")],
)
def test_first_line_of_an_error_is_what_it_says_or_its_name(error: Exception, line: str) -> None:
    assert first_line(error) == line
