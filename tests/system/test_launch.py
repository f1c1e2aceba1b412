"""The launcher with real processes, and the demo with stand-ins for its commands."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.demo import output_folder, run_demo
from cluster.launch.child import Command
from cluster.launch.launcher import CommandFailed, Launcher
from cluster.launch.machine import Machine
from cluster.stages import Demo

ROOT = Path(__file__).resolve().parents[2]

# Ignores SIGTERM, as does its child; writes both process ids to the pipe that it is given.
STUBBORN = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, __file__])
    open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
signal.pause()
"""

# Leaves a daemon in a session of its own, without a parent and an environment, and ends well. A
# first fork ends at once, so the daemon has lost its parent before the command ends. The daemon has
# memory to give back, as a student has: it lives on for some milliseconds after the signal.
DAEMON = """
import os, subprocess, sys
code = "import signal; memory = b'1' * (256 << 20); print(flush=True); signal.pause()"
deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
middle = "import subprocess, sys; it = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
middle += "start_new_session=True, env={}); print(it.pid, flush=True)"
argv = [sys.executable, "-c", middle, deaf + code if "deaf" in sys.argv[2:] else code]
child = subprocess.Popen(argv, stdout=subprocess.PIPE)
pid, ready = child.stdout.readline(), child.stdout.readline()
child.wait()
open(sys.argv[1], "wb").write(pid)
"""

# Runs one command as the demo would, in a process that the test can signal; also where the tests
# run under nohup or in the background, where children start with SIGHUP or SIGINT ignored.
DRIVER = """
import signal, sys
from pathlib import Path
from cluster.launch.child import Command
from cluster.launch.launcher import Launcher
from trainer.common.cli import run_main

def main(argv):
    with Launcher(Path(argv[0]), screen=sys.stdout, grace_s=float(argv[1])) as launcher:
        launcher.run([Command(name="stubborn", argv=tuple(argv[2:]))])

for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
run_main(main)
"""


def python(name: str, code: str, *argv: str, env: dict[str, str | None] | None = None) -> Command:
    return Command(name=name, argv=(sys.executable, "-c", code, *argv), env=env or {})


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def launcher(tmp_path: Path, screen: io.StringIO | None = None) -> Launcher:
    return Launcher(tmp_path / "logs", screen=screen or io.StringIO(), grace_s=0.3)


@pytest.fixture
def stubborn(tmp_path: Path) -> tuple[str, str]:
    """A script, and the pipe to which it writes its process ids."""
    script, pipe = tmp_path / "stubborn.py", tmp_path / "pipe"
    script.write_text(STUBBORN)
    os.mkfifo(pipe)
    return str(script), str(pipe)


def test_run_success_logs_the_command_and_its_output(tmp_path: Path) -> None:
    screen = io.StringIO()
    with launcher(tmp_path, screen) as it:
        it.run([python("say hello", "import sys; print('out'); print('err', file=sys.stderr)")])
    log = (tmp_path / "logs" / "say-hello.log").read_text()
    assert log.startswith(f"$ {sys.executable} -c ")
    assert sorted(log.splitlines()[1:]) == ["err", "out"]
    assert "say hello" in screen.getvalue()


def test_run_lane_keeps_its_order_and_lanes_run_side_by_side(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done: list[str] = []
    # Opening a pipe waits for its other end, so the two lanes can only end together.
    reader = python("reader", "import sys; assert open(sys.argv[1]).read() == 'x'", str(pipe))
    writer = python("writer", "import sys; open(sys.argv[1], 'w').write('x')", str(pipe))
    with launcher(tmp_path) as it:
        it.run(
            [reader, python("last", "")],
            [writer],
            on_success=lambda command: done.append(command.name),
        )
    assert sorted(done) == ["last", "reader", "writer"]
    assert done.index("reader") < done.index("last")


def test_run_environment_adds_and_takes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONKD_TEST_OUT", "1")
    seen = tmp_path / "seen"
    values = "os.environ['IN'] + str(os.environ.get('CONKD_TEST_OUT'))"
    code = f"import os, pathlib; pathlib.Path({str(seen)!r}).write_text({values})"
    with launcher(tmp_path) as it:
        it.run([python("environment", code, env={"IN": "a", "CONKD_TEST_OUT": None})])
    assert seen.read_text() == "aNone"


def test_run_failure_reports_command_status_and_tail(tmp_path: Path) -> None:
    code = "import sys; print('why it failed'); sys.exit(3)"
    with pytest.raises(CommandFailed) as caught, launcher(tmp_path) as it:
        it.run([python("broken", code), python("never", "")])
    assert "broken must exit with 0, got 3" in str(caught.value)
    assert "broken.log" in str(caught.value)
    assert caught.value.tail.endswith("why it failed")
    assert not (tmp_path / "logs" / "never.log").exists()


def test_run_killed_child_is_reported_by_its_signal(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(CommandFailed, match="got SIGKILL"), launcher(tmp_path) as it:
        it.run([python("killed", code)])


def test_run_missing_program_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"), launcher(tmp_path) as it:
        it.run([Command(name="missing", argv=("no-such-program",))])


def test_run_failure_stops_the_other_lanes_and_their_deaf_children(
    tmp_path: Path, stubborn: tuple[str, str]
) -> None:
    script, pipe = stubborn
    ids = tmp_path / "ids"
    # Fails once the other lane's processes are up.
    code = "import sys; open(sys.argv[2], 'w').write(open(sys.argv[1]).read()); sys.exit(1)"
    with pytest.raises(CommandFailed, match="broken"), launcher(tmp_path) as it:
        it.run(
            [Command(name="stubborn", argv=(sys.executable, script, pipe))],
            [python("broken", code, pipe, str(ids))],
        )
    pids = [int(pid) for pid in ids.read_text().split()]
    assert len(pids) == 2
    assert not any(is_running(pid) for pid in pids)


def test_command_started_beside_others_ends_with_the_context_even_if_stopped(
    tmp_path: Path,
) -> None:
    with launcher(tmp_path) as it:
        child = it.start(python("beside", "import signal; signal.pause()"))
        it.run([python("other", "")])
        assert child.poll() is None
        os.kill(child.pid, signal.SIGSTOP)
    assert child.poll() is not None


@pytest.mark.parametrize("deaf", [(), ("deaf",)])
def test_leaving_the_context_ends_a_daemon_without_parent_session_or_environment(
    tmp_path: Path, deaf: tuple[str, ...]
) -> None:
    path = tmp_path / "pid"
    with launcher(tmp_path) as it:
        it.run([python("daemon", DAEMON, str(path), *deaf)])
        pid = int(path.read_text())
        assert is_running(pid)
        assert Path(f"/proc/{pid}/environ").read_bytes() == b""
        assert os.getsid(pid) == pid
    # Reaped by the launcher's side, so not even a zombie is left.
    assert not Path(f"/proc/{pid}").exists()


def test_leaving_the_context_ends_a_daemon_whose_command_failed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pytest.raises(CommandFailed, match="got 3"), launcher(tmp_path) as it:
        it.run([python("daemon", DAEMON + "sys.exit(3)", str(path))])
    assert not Path(f"/proc/{int(path.read_text())}").exists()


def test_command_whose_reaper_was_killed_ends_with_the_context(tmp_path: Path) -> None:
    with launcher(tmp_path) as it:
        child = it.start(python("sleeper", "import time; time.sleep(60)"))
        (command,) = child.descendants()
        assert command.pid == child.pid
        os.kill(command.ppid(), signal.SIGKILL)
    command.wait(timeout=10)


def test_leaving_the_context_leaves_other_children_of_this_process_alone(tmp_path: Path) -> None:
    code = "import sys; sys.exit(int(input()))"
    with launcher(tmp_path) as it:
        # In a session of its own, as a daemon is, and started while the launcher is open.
        other = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True
        )
        it.run([python("command", "")])
    assert other.poll() is None
    other.communicate(b"7")
    assert other.returncode == 7


def test_leaving_an_inner_context_leaves_what_the_outer_one_started(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with launcher(tmp_path / "outer") as outer:
        with launcher(tmp_path / "inner") as inner:
            beside = outer.start(python("beside", "import signal; signal.pause()"))
            outer.run([python("daemon", DAEMON, str(path))])
            inner.run([python("command", "")])
        assert beside.poll() is None
        assert is_running(int(path.read_text()))
    assert beside.poll() is not None
    assert not is_running(int(path.read_text()))


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_signal_stops_everything_and_sets_the_exit_code(
    tmp_path: Path, stubborn: tuple[str, str], number: signal.Signals, status: int
) -> None:
    script, pipe = stubborn
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "logs"), "0.3", sys.executable, script, pipe],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with open(pipe) as opened:
        pids = [int(pid) for pid in opened.read().split()]
    driver.send_signal(number)
    assert driver.wait(timeout=60) == status
    assert len(pids) == 2
    assert not any(is_running(pid) for pid in pids)


def test_second_signal_cuts_the_grace_short(tmp_path: Path, stubborn: tuple[str, str]) -> None:
    script, pipe = stubborn
    driver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            DRIVER,
            str(tmp_path / "logs"),
            "3600",
            sys.executable,
            script,
            pipe,
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with open(pipe) as opened:
        pids = [int(pid) for pid in opened.read().split()]
    # As a person at the keyboard would: again, until it ends.
    deadline_s = time.monotonic() + 60
    # Once they are gone it is ending: a signal then may find Python without its handlers.
    while any(map(is_running, pids)) and time.monotonic() < deadline_s:
        driver.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert driver.wait(timeout=60) == 130
    assert not any(is_running(pid) for pid in pids)


# The demo: its commands are recorded by stand-ins for `python` and `deepspeed`.

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


def test_demo_main_with_missing_data_says_so_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster.demo", "--data", str(tmp_path / "none")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --data must be a folder with dialogues, got ")
    assert ended.stderr.count("\n") == 1
