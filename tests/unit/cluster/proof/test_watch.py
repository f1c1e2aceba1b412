"""Steps are read from a log that grows, and stalls belong to the event that made them."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.proof.watch import TAIL_BYTES, Seen, Watch, last_step, longest_stall_s, step_entries

SEEN = [Seen(at_s=at, step=step) for step, at in enumerate((1.0, 2.0, 3.0, 9.0, 10.0), 1)]


def test_last_step_is_that_of_the_last_whole_line_about_a_step(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    assert last_step(log) == 0
    log.write_text('{"event": "start"}\n')
    assert last_step(log) == 0
    with log.open("a") as file:
        for step in range(1, 1000):
            file.write(json.dumps({"step": step, "loss": 1.5}) + "\n")
        file.write('{"step": 1000, "lo')
    assert log.stat().st_size > TAIL_BYTES
    assert last_step(log) == 999


def test_entries_of_a_run_that_has_ended_are_its_steps(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"event": "start"}\n{"step": 1}\n{"step": 2}\n{"event": "end"}\n')
    assert step_entries(log) == [{"step": 1}, {"step": 2}]


def test_seconds_count_from_zero_anew(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    log = tmp_path / "one" / "metrics.jsonl"
    watch = Watch([tmp_path / "one", tmp_path / "two"])
    log.write_text('{"step": 1}\n{"step": 2}\n')
    watch.look()
    watch.set_to_zero()
    assert watch.seen == {"one": [Seen(at_s=0.0, step=2)], "two": [Seen(at_s=0.0, step=0)]}
    watch.look()
    assert len(watch.seen["one"]) == 1
    log.write_text('{"step": 3}\n')
    watch.look()
    assert [it.step for it in watch.seen["one"]] == [2, 3]
    assert watch.seen["one"][1].at_s < watch.now_s() < 60


def test_stall_is_the_longest_time_between_steps_of_an_interval() -> None:
    assert longest_stall_s(SEEN, 2.5, 9.5) == 6.0
    assert longest_stall_s(SEEN, 0.0, 2.5) == 1.0


def test_stall_that_begins_in_an_interval_belongs_to_it_to_its_end() -> None:
    assert longest_stall_s(SEEN, 1.5, 4.0) == 6.0


def test_stall_that_lasts_from_before_is_counted_from_its_begin() -> None:
    assert longest_stall_s(SEEN, 5.0, 6.0) == 6.0


def test_stall_without_an_end_yet_is_as_long_as_it_was_seen() -> None:
    assert longest_stall_s(SEEN, 9.5, 15.0) == 5.0
    assert longest_stall_s([], 0.0, 9.0) == 9.0
