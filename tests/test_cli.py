from __future__ import annotations

import subprocess
import sys

import pytest

from tests.student_runs import ROOT

SCRIPT = """
import atexit, sys
from trainer.cli import {run}
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
