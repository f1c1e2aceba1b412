"""A whole ablation of two arms: stopped by Ctrl-C in a cell, gone on with, and made a page of."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.support.served_teachers import FittedTeachers
from tests.support.student_runs import environment
from trainer.ablation.cell import read_cell
from trainer.common.cli import EXIT_INTERRUPTED

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 400.0
STEPS = 12


def write_config(root: Path, data: Path, teachers: FittedTeachers) -> Path:
    config = {
        "run": {
            "data": str(data),
            "output": str(root / "runs"),
            "action_tokens": False,
            "student": {"num_layers": 1, "hidden_size": 32, "num_heads": 2, "max_positions": 320},
            "distill": {"gamma": 0.6, "eta": 0.1},
            "train": {"steps": STEPS, "batch_size": 16, "group": "dialogue"},
        },
        "teachers": {
            "dialogue": str(teachers.dialogue),
            "recommendation": str(teachers.recommendation),
        },
        "tables": {"teacher": {}, "gamma": {}},
    }
    path = root / "ablation.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def start(root: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.ablate", *options, "--cells", str(root / "cells")],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    said, error = process.communicate(timeout=LIMIT_S)
    assert process.returncode == status, error
    return said


def wait_for_student(root: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not list((root / "runs" / "students").glob("*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes_of(root: Path) -> list[list[str]]:
    found = (it.info["cmdline"] for it in psutil.process_iter(["cmdline"]))
    return [line for line in found if line and any(str(root / "runs") in part for part in line)]


@pytest.mark.everything
def test_an_ablation_goes_on_after_ctrl_c_and_its_page_is_made_of_cells_alone(
    prepared_dir: Path, teachers: FittedTeachers, tmp_path: Path
) -> None:
    config = ("--config", str(write_config(tmp_path, prepared_dir, teachers)), "--seeds", "1")
    made = (*config, "--table", "teacher")
    process = start(tmp_path, *made)
    wait_for_student(tmp_path, process)
    process.send_signal(signal.SIGINT)
    finish(process, EXIT_INTERRUPTED)
    assert processes_of(tmp_path) == []

    assert "0 of 2 cells are there, 2 are made now" in finish(start(tmp_path, *made))
    cells = tmp_path / "cells" / "teacher"
    vanilla, taught = (read_cell(cells / f"{it}-seed0.json") for it in ("vanilla", "teachers_full"))
    assert vanilla.sources["teachers"] == {} and vanilla.steps["step"] == STEPS
    card = json.loads((teachers.dialogue / "teacher.json").read_text())
    assert taught.sources["teachers"]["dialogue"] == card["weights_digest"]
    assert "2 of 2 cells are there, 0 are made now" in finish(start(tmp_path, *made))

    # The student of another table that is trained alike: it is compared with its teacher, no more.
    students = set((tmp_path / "runs" / "students").iterdir())
    finish(start(tmp_path, *config, "--table", "gamma", "--limit-cells", "1"))
    assert set((tmp_path / "runs" / "students").iterdir()) == students
    same = read_cell(tmp_path / "cells" / "gamma" / "gamma_0_0-seed0.json")
    compared = same.scores["paper.all"]
    # Sums in a cell are rounded.
    assert compared["perplexity"] == pytest.approx(vanilla.scores["paper.all"]["perplexity"])
    assert compared["kl_dialogue"] is not None and compared["kl_dialogue"] > 0.0

    (tmp_path / "runs").rename(tmp_path / "gone")
    finish(start(tmp_path, "table", "--output", str(tmp_path / "page.md")))
    assert "| teachers_full | 1 |" in (tmp_path / "page.md").read_text()
