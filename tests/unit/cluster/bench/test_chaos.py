"""What the chaos benchmark is made of, and a short run of it with real processes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from cluster.bench.chaos.bench import figures_of
from cluster.bench.chaos.evidence import (
    Counts,
    HandOut,
    Witnessed,
    count_answers,
    count_rows,
    longest_wait_s,
    max_relative_difference,
    recovery_s,
    speed,
)
from cluster.bench.chaos.scenarios import DIRECTORY, KILL
from cluster.bench.fleet.faults import with_fault
from cluster.bench.fleet.replay import (
    ReplayTeacher,
    fingerprint,
    load_answers,
    record,
    save_answers,
)
from cluster.bench.result import Row
from protos import codec, teacher_pb2
from protos.codec import WireError
from protos.teacher_pb2 import Compression
from tests.support.fake_teacher import VOCAB, FakeTeacher
from trainer.data.model_input import SequenceInput

CUT = Compression(top_k=4)
FINGERPRINTS = {"x": "px", "y": "py", "z": "pz"}


def example_input(*tokens: int, num_rows: int = 1) -> SequenceInput:
    return SequenceInput.at_end(num_rows=num_rows, tokens=np.array(tokens, np.int32))


def witnessed(*batches: list[str], positions: int | None = None) -> Witnessed:
    """Asked for x and y, then for z; what was handed out, a second apart, two rows each."""
    hand_outs = [
        HandOut(at_s=float(at_s), batch=at_s, rows=2, fingerprints=fingerprints)
        for at_s, fingerprints in enumerate(batches)
    ]
    rows = 2 * len(batches) if positions is None else positions
    return Witnessed(
        submitted=[["x", "y"], ["z"]], handed_out=hand_outs, positions=rows, resends=0, hedges=0
    )


@pytest.mark.parametrize(
    ("batches", "counts"),
    [
        ([["px", "py"], ["pz"]], Counts(lost=0, duplicated=0, reordered=0)),
        ([["px", "py"]], Counts(lost=1, duplicated=0, reordered=0)),
        ([["py", "px"], ["pz"]], Counts(lost=0, duplicated=0, reordered=2)),
        ([["px", "py"], ["px"]], Counts(lost=1, duplicated=1, reordered=1)),
        ([["px", "py"], ["pz"], ["pz"]], Counts(lost=0, duplicated=1, reordered=0)),
        ([["px", "??"], ["pz"]], Counts(lost=1, duplicated=1, reordered=0)),
    ],
)
def test_count_prints_tells_whose_answers_were_handed_out(
    batches: list[list[str]], counts: Counts
) -> None:
    assert count_answers(witnessed(*batches), FINGERPRINTS) == counts


def test_count_rows_compares_batches_and_the_clients_own_count() -> None:
    whole = witnessed(["px", "py"], ["pz"])
    assert count_rows(whole) == Counts(lost=0, duplicated=0, reordered=0)
    assert count_rows(witnessed(["px", "py"])).lost == 1
    assert count_rows(witnessed(["px", "py"], ["pz"], positions=3)).lost == 1
    assert count_rows(witnessed(["px", "py"], ["pz"], positions=5)).duplicated == 1
    backwards = dataclasses.replace(whole, handed_out=whole.handed_out[::-1])
    assert count_rows(backwards).reordered == 1


def test_recovery_is_the_start_of_the_first_window_at_full_speed() -> None:
    # Ten rows a second, but none from second 5 to 9.
    times = [t / 10 for t in range(0, 200) if not 50 < t < 90]
    hand_outs = [HandOut(at_s=t, batch=0, rows=1, fingerprints=[]) for t in times]
    assert speed(hand_outs, 10.0, 12.0) == pytest.approx(10.0)
    assert recovery_s(hand_outs, 10.0, expected=10.0) == 0.0
    # A window of 2 s holds 16 of 20 rows when it starts .4 s before second 9.
    assert recovery_s(hand_outs, 5.0, expected=10.0) == pytest.approx(3.6, abs=0.11)
    assert recovery_s(hand_outs, 5.0, expected=30.0) == math.inf
    assert longest_wait_s(hand_outs, 4.0) == pytest.approx(4.0)


def test_max_relative_difference_wants_curves_of_one_length() -> None:
    assert max_relative_difference([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="must have 2 steps, got 1"):
        max_relative_difference([1.0], [1.0, 2.0])


def test_figures_are_the_worst_of_all_scenarios_and_the_recovery_from_a_kill() -> None:
    def row(scenario: str, answers: str, difference: float, recovery: float) -> Row:
        counts: Row = {"lost": 1, "duplicated": 0, "reordered": 2, "hedges": 4}
        name: Row = {"scenario": scenario, "answers": answers, "error": ""}
        return {**name, "loss_difference": difference, "recovery_s": recovery, **counts}

    rows = [
        row(KILL.name, "scored", 1e-5, 1.0),
        row(KILL.name, "replayed", 1e-9, 2.0),
        row(DIRECTORY.name, "scored", 1e-6, 30.0),
    ]
    figures = figures_of(rows, {"loss_difference": 1e-8, "exit_status": 2})
    assert figures == {
        "max_loss_difference": 1e-5,
        "max_loss_difference_replayed": 1e-8,
        "lost": 3,
        "duplicated": 0,
        "reordered": 6,
        "hedges": 12,
        "recovery_s": 2.0,
        "patience_exit_status": 2.0,
    }


def test_replayed_answers_are_the_recorded_ones_after_a_file(tmp_path: Path) -> None:
    inputs = [example_input(1, 2, 3, num_rows=2), example_input(4), example_input(5)]
    teacher = FakeTeacher()
    save_answers(tmp_path / "answers.npz", record(teacher, inputs, CUT))
    replay = ReplayTeacher(teacher, load_answers(tmp_path / "answers.npz"))
    for asked in (inputs, inputs[::-1]):
        assert fingerprint(replay.score(asked, CUT)) == fingerprint(teacher.score(asked, CUT))
    with pytest.raises(ValueError, match="every input must be recorded, got 1 that are not"):
        replay.score([example_input(7)], CUT)


def test_replies_with_a_fault_are_refused_by_the_decoder() -> None:
    rows = FakeTeacher().score([example_input(1, 2, 3, num_rows=3)], CUT)
    reply = teacher_pb2.ScoreReply(request_id=1, block=codec.encode(rows))
    assert with_fault(reply, "none") is reply
    assert with_fault(reply, "never") is None
    for request_id in (1, 2):
        reply.request_id = request_id
        garbage = with_fault(reply, "garbage")
        assert garbage is not None
        with pytest.raises(WireError):
            codec.decode(garbage.block, num_rows=3, vocab_size=VOCAB)
    short = with_fault(reply, "short")
    assert short is not None
    assert codec.decode(short.block, num_rows=2, vocab_size=VOCAB).num_rows == 2
    with pytest.raises(WireError, match="must hold the 3 rows asked for, got 2"):
        codec.decode(short.block, num_rows=3, vocab_size=VOCAB)
