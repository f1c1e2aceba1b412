"""The demo, with stand-ins that record its commands in the place of `python` and `deepspeed`."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.demo import output_folder, run_demo
from cluster.launch.launcher import CommandFailed, Launcher
from cluster.stages import ROOT, Demo, Machine

STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> CALLS
case "$*" in
  *"teacher_server up"*) echo "{}" > OUTPUT/fleet.json ;;
  *"teacher_server down"*) rm OUTPUT/fleet.json ;;
  *evaluation.report*) mkdir -p OUTPUT/distilled/plots
    for part in report.json report.md plots/loss.png; do echo x > OUTPUT/distilled/$part; done ;;
esac
case "$*" in *FAIL*) echo "no such luck"; exit 4 ;; esac
"""
STAGES = [
    "python -m trainer.data prepare",
    "python -m trainer.pretrain recommendation",
    "python -m trainer.pretrain classifier",
    "python -m trainer.pretrain dialogue",
    "python -m teacher_server up",
    "deepspeed --num_accelerators 2",
    "python -m teacher_server down",
    "deepspeed --num_accelerators 2",
    "python -m trainer.evaluation.report",
]


def stand_ins(tmp_path: Path, fail: str = "-never-") -> Demo:
    """A synthetic demo whose commands do nothing but the part that matters to the others."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    text = STAND_IN.replace("CALLS", str(tmp_path / "calls"))
    text = text.replace("OUTPUT", str(tmp_path / "out")).replace("FAIL", fail)
    for name in ("python", "deepspeed"):
        path = tmp_path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    machine = Machine(num_cores=2, num_devices=0, python=tmp_path / "bin" / "python")
    return Demo(source=None, output=tmp_path / "out", machine=machine)


def run(demo: Demo, *, resume: bool = False) -> None:
    with (
        output_folder(demo.output, demo.source, resume=resume),
        Launcher(demo.output / "logs", screen=io.StringIO(), grace_s=0.3) as it,
    ):
        run_demo(demo, it)


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def test_demo_runs_all_stages_in_order_and_collects_the_report(tmp_path: Path) -> None:
    run(stand_ins(tmp_path))
    made = calls(tmp_path)
    assert len(made) == len(STAGES)
    assert all(call.startswith(stage) for call, stage in zip(made, STAGES, strict=True))
    port = made[4].split("--port ")[1].split()[0]
    assert f"teachers.directory=127.0.0.1:{port}" in made[5]
    assert "distill.gamma=0" in made[7]
    for part in ("report.json", "report.md", "plots/loss.png"):
        assert (tmp_path / "out" / part).is_file()


def test_demo_starts_both_students_on_real_dialogues_from_the_same_item_rows(
    tmp_path: Path,
) -> None:
    demo = dataclasses.replace(stand_ins(tmp_path), source=tmp_path)
    vectors = f"item_vectors={tmp_path / 'out' / 'recommendation'}"
    assert vectors in demo.train_student("distilled", "teachers.directory=there").argv
    assert vectors in demo.train_student("undistilled", "distill.gamma=0").argv
    run(demo)
    made = calls(tmp_path)
    assert "distill.gamma=0 item_vectors=null" in made[-2]
    assert f"--plain {tmp_path / 'out' / 'plain'}" in made[-1]


def test_demo_failure_takes_the_fleet_down(tmp_path: Path) -> None:
    demo = stand_ins(tmp_path)
    (tmp_path / "bin" / "deepspeed").write_text("#!/bin/sh\necho no such luck\nexit 4\n")
    with pytest.raises(CommandFailed, match="student distilled must exit with 0, got 4") as caught:
        run(demo)
    assert caught.value.tail.endswith("no such luck")
    assert calls(tmp_path)[-1].startswith("python -m teacher_server down")
    assert not demo.fleet_file.exists()


def test_demo_resume_skips_what_is_finished(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="pretrain dialogue"):
        run(stand_ins(tmp_path, fail="pretrain\\ dialogue"))
    (tmp_path / "calls").unlink()
    run(stand_ins(tmp_path), resume=True)
    made = calls(tmp_path)
    assert len(made) == len(STAGES[3:])
    assert all(call.startswith(stage) for call, stage in zip(made, STAGES[3:], strict=True))


def test_demo_started_afresh_empties_the_folder_and_ends_an_old_fleet(tmp_path: Path) -> None:
    demo = stand_ins(tmp_path)
    run(demo)
    (tmp_path / "calls").unlink()
    demo.fleet_file.write_text("{}")
    (demo.output / "distilled" / "old").touch()
    run(demo)
    assert [call.split(" --")[0] for call in calls(tmp_path)[:2]] == [
        "python -m teacher_server down",
        "python -m trainer.data prepare",
    ]
    assert not (demo.output / "distilled" / "old").exists()


def test_output_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="--output must be a new folder"):
        run(Demo(source=None, output=tmp_path, machine=stand_ins(tmp_path).machine))
    assert (tmp_path / "thesis.tex").exists()


def test_output_folder_resume_of_another_demo_is_refused(tmp_path: Path) -> None:
    run(stand_ins(tmp_path))
    with (
        pytest.raises(ValueError, match="--resume must find a demo of the same --data"),
        output_folder(tmp_path / "out", tmp_path / "redial", resume=True),
    ):
        pass


def test_output_folder_in_use_is_refused(tmp_path: Path) -> None:
    with (
        output_folder(tmp_path / "out", None, resume=False),
        pytest.raises(BlockingIOError, match="no other demo must run"),
        output_folder(tmp_path / "out", None, resume=False),
    ):
        pass


def test_demo_main_with_missing_data_says_so_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster.demo", "--data", str(tmp_path / "none")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --data must be a folder with dialogues, got ")
    assert ended.stderr.count("\n") == 1


def test_output_folder_records_its_source(tmp_path: Path) -> None:
    with output_folder(tmp_path / "out", tmp_path / "redial", resume=False):
        record = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert record == {"source": str(tmp_path / "redial")}
