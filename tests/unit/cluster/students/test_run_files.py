"""The folder of a run: its state, its log and its progress."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.students import journal as journal_module
from cluster.students.following import SILENT_S, follow
from cluster.students.journal import Journal
from cluster.students.progress import last_step, newest_checkpoint
from cluster.students.run_files import (
    LOG_NAME,
    STATE_NAME,
    VARIABLE,
    RunState,
    read_state,
    run_folder,
    write_state,
)
from trainer.common.errors import InputError, MissingError, UnreachableError

STATE = RunState(run="one", id="1", epoch=3, state="running", nodes=("10.0.0.1",), ranks=2)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def test_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_state(tmp_path, STATE)
    assert read_state(tmp_path) == STATE


def test_run_that_was_not_started_and_a_file_of_another_version_are_one_line(
    tmp_path: Path,
) -> None:
    with pytest.raises(MissingError, match="a run must have been started in"):
        read_state(tmp_path)
    (tmp_path / STATE_NAME).write_text('{"nodes": [], "colour": 1}')
    with pytest.raises(InputError, match="must be the state of a run of this version"):
        read_state(tmp_path)


def test_folder_of_a_run_needs_the_shared_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(InputError, match="CONKD_SHARED must name the folder"):
        run_folder("one")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "not-mounted"))
    with pytest.raises(InputError, match=r"got .*not-mounted"):
        run_folder("one")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert run_folder("one") == tmp_path / "runs" / "one"


def test_last_step_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    assert last_step(tmp_path) == 0
    lines = [{"event": "start"}, {"step": 1}, {"step": 2}, {"event": "valid", "step": 9}]
    text = "".join(json.dumps(each) + "\n" for each in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 3, "lo')
    assert last_step(tmp_path) == 2


def test_checkpoint_counts_once_it_is_finished(tmp_path: Path) -> None:
    for step in (20, 40):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    assert newest_checkpoint(tmp_path) == 0
    (tmp_path / "checkpoints" / "step-00000020" / "whole.json").touch()
    assert newest_checkpoint(tmp_path) == 20


def test_journal_writes_lines_in_order_and_the_state_at_its_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path, STATE)
    journal.start()
    journal.lines(["a", "b"])
    journal.event("done", replace(STATE, state="done", exit_status=0))
    journal.close()
    first, second, event = (tmp_path / LOG_NAME).read_text().splitlines()
    assert (first, second) == ("a", "b")
    assert event.endswith(" done")
    written = read_state(tmp_path)
    assert (written.state, written.message, written.exit_status) == ("done", "done", 0)


def test_run_has_begun_once_its_log_of_steps_is_another_file(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 70}\n')
    journal = Journal(tmp_path, STATE)
    seen = journal._look()
    # The steps are those of an earlier run.
    assert (seen.has_begun, seen.step) == (False, 0)
    new = tmp_path / "new"
    new.write_text('{"step": 1}\n')
    new.replace(metrics)
    seen = journal._look()
    assert (seen.has_begun, seen.step) == (True, 1)


def test_supervisor_that_was_replaced_writes_nothing_any_more(tmp_path: Path) -> None:
    successor = replace(STATE, epoch=4, message="mine")
    write_state(tmp_path, successor)
    journal = Journal(tmp_path, STATE)
    journal.start()
    journal.event("still here", STATE)
    journal.close()
    assert journal.seen.is_replaced
    assert read_state(tmp_path) == successor
    assert not (tmp_path / LOG_NAME).exists()


def written(shared: Path, *, exit_status: int | None, updated: float) -> None:
    folder = shared / "runs" / "one"
    write_state(folder, replace(STATE, exit_status=exit_status, updated=updated))
    (folder / LOG_NAME).write_text("first\nsecond\nhalf a li")


def test_follow_prints_whole_lines_and_ends_with_the_runs_status(shared: Path) -> None:
    now_s = time.time()
    written(shared, exit_status=None, updated=now_s)
    out = io.StringIO()

    def goes_on(_: float) -> None:
        with (shared / "runs" / "one" / LOG_NAME).open("a") as log:
            log.write("ne\n")
        write_state(shared / "runs" / "one", replace(STATE, exit_status=7, updated=now_s))

    assert follow("one", out, wait=goes_on, now=lambda: now_s) == 7
    assert out.getvalue() == "first\nsecond\nhalf a line\n"


def test_follow_does_not_wait_for_ever_for_a_supervisor_that_is_gone(shared: Path) -> None:
    written(shared, exit_status=None, updated=1000.0)
    with pytest.raises(UnreachableError, match="run one must have a supervisor that writes"):
        follow("one", io.StringIO(), wait=lambda _: None, now=lambda: 1001.0 + SILENT_S)


def test_journal_keeps_lines_while_the_folder_fails_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journal_module, "LOOK_S", 0.01)
    monkeypatch.setattr(journal_module, "MAX_LINES", 3)
    (tmp_path / LOG_NAME).mkdir()
    journal = Journal(tmp_path, STATE)
    journal.lines(["a", "b"])
    journal.start()
    deadline_s = time.monotonic() + 30
    while not journal.seen.problem:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    (tmp_path / LOG_NAME).rmdir()
    journal.close()
    first, second, problem = (tmp_path / LOG_NAME).read_text().splitlines()
    assert (first, second) == ("a", "b")
    assert "must be readable and writable, got: [Errno 21]" in problem
    assert capsys.readouterr().err.count("must be readable and writable") == 1


def test_journal_counts_the_lines_that_it_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_LINES", 2)
    journal = Journal(tmp_path, STATE)
    journal.lines(["a", "b", "c", "d", "e"])
    journal.start()
    journal.close()
    *lines, told = (tmp_path / LOG_NAME).read_text().splitlines()
    assert (lines, told.split()[0]) == (["a", "b"], "3")
