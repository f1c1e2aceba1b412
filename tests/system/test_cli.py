"""Real ends of commands and ranks; tests/unit/trainer/common/test_cli.py has every kind of end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
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


WRONG = {
    "trainer/main.py": ("--config", "trainer/configs/synthetic.yaml", "data=d", "train.steps=true"),
    "-m trainer.pretrain": ("classifier", "--config", "absent", "--output", "ROOT/out"),
    "-m trainer.data": ("prepare", "--source", "redial", "--output", "ROOT/out", "--seed", "-1"),
    "-m trainer.targets": ("import", "absent", "ROOT/out", "--max-bytes", "0"),
    "-m trainer.plan": ("--student", "small", "--gpus", "0", "--gpu-memory", "8GiB"),
    "-m trainer.chat": ("--checkpoint", "absent", "--jason"),
    "-m trainer.evaluation": ("--checkpoint", "absent", "--data", "absent", "--limit", "0"),
    "-m trainer.evaluation.divergence": ("--checkpoint", "absent", "--limit", "0"),
    "-m trainer.evaluation.report": ("--run", "/proc/below"),
    "-m trainer.evaluation.respond": ("--checkpoint", "absent", "--shard", "2/2"),
    "-m trainer.evaluation.teachers": ("--data", "absent", "--output", "ROOT/out"),
    "-m teacher_server": ("up", "--dialogue", "absent", "--fleet", "ROOT/fleet.json"),
    "-m cluster.demo": ("--data", "absent"),
    "-m cluster.bench": ("no-such-benchmark",),
    "-m cluster.grafana": ("no-such-argument",),
}


@pytest.mark.parametrize("command", WRONG)
def test_command_with_a_wrong_value_says_one_line_and_leaves_nothing(
    command: str, tmp_path: Path
) -> None:
    arguments = [part.replace("ROOT", str(tmp_path)) for part in WRONG[command]]
    process = subprocess.Popen(
        [sys.executable, *command.split(), *arguments],
        cwd=ROOT,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert [it.pid for it in psutil.process_iter() if in_session(it.pid, process.pid)] == []
    assert list(tmp_path.iterdir()) == []


def in_session(pid: int, session: int) -> bool:
    """Whether a process that may be gone by now belongs to a session."""
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid) == session
    return False
