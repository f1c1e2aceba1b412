"""What a rank does when its targets will not come; whole runs are in test_served_student."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from protos.codec import WireError
from trainer import train
from trainer.common.errors import TeacherUnavailable
from trainer.lookahead import SubmittedStep
from trainer.loss.conkd import PreparedTargets


def failed(error: Exception) -> Future[PreparedTargets]:
    future: Future[PreparedTargets] = Future()
    future.set_exception(error)
    return future


class FakeEngine:
    """One rank alone."""

    def sum_over_ranks(self, values: list[float]) -> list[float]:
        return [float(value) for value in values]


class FakeCheckpoints:
    """The newest checkpoint is of `newest` steps."""

    def __init__(self, newest: int) -> None:
        self.newest = newest
        self.saved: list[int] = []

    def newest_step(self) -> int:
        return self.newest

    def save(self, step: int) -> None:
        self.saved.append(step)


@pytest.mark.parametrize("error", [TeacherUnavailable("gone"), WireError("torn"), ValueError("x")])
@pytest.mark.parametrize(("newest", "saved"), [(3, [7]), (7, [])])
def test_step_without_targets_checkpoints_the_steps_done_and_raises(
    error: Exception, newest: int, saved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_alone(problem: Exception | None) -> None:
        assert problem is not None
        raise problem

    monkeypatch.setattr(train, "raise_on_all_ranks", raise_alone)
    engine: Any = FakeEngine()
    checkpoints: Any = FakeCheckpoints(newest)
    step = SubmittedStep(step=7, inputs=(), pending=(failed(error),))
    with pytest.raises(type(error)):
        train._wait_for_targets(engine, step, checkpoints)
    assert checkpoints.saved == saved


class LogWithoutRoom:
    problem = OSError("metrics.jsonl must take a line about step 7, got: no room.")


def test_checkpoint_is_not_written_beyond_what_the_log_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raise_alone(problem: Exception | None) -> None:
        if problem is not None:
            raise problem

    monkeypatch.setattr(train, "raise_on_all_ranks", raise_alone)
    checkpoints: Any = FakeCheckpoints(newest=3)
    log: Any = LogWithoutRoom()
    with pytest.raises(OSError, match="must take a line about step 7"):
        train._keep(checkpoints, 7, None, log)
    assert checkpoints.saved == []
    train._keep(checkpoints, 7, None, None)
    assert checkpoints.saved == [7]


class Enough(Exception):
    """What came after does not matter."""


class NotedFuture(Future[PreparedTargets]):
    """Targets that are noted when a rank has waited for them."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self._events = events

    def result(self, timeout: float | None = None) -> Any:
        self._events.append("targets")
        return SimpleNamespace(soft=None)


class NotingEngine:
    """Notes meetings on the group of the run, and forwards: under ZeRO-3 meetings on another."""

    rank = 0
    device = torch.device("cpu")

    def __init__(self, events: list[str]) -> None:
        self._events = events

    def sum_over_ranks(self, values: list[float]) -> list[float]:
        self._events.append("meet")
        return [float(value) for value in values]

    def forward(self, *_: object) -> None:
        self._events.append("forward")
        raise Enough


def test_ranks_meet_with_all_their_targets_before_any_enters_a_collective_of_zero() -> None:
    # A group of DeepSpeed's own gives up after half an hour, patience with teachers may be longer.
    events: list[str] = []
    engine: Any = NotingEngine(events)
    inputs: Any = (SimpleNamespace(model=None),) * 2
    pending = (NotedFuture(events), NotedFuture(events))
    config: Any = SimpleNamespace(seed=0)
    with pytest.raises(Enough):
        train.train_step(config, engine, SubmittedStep(step=7, inputs=inputs, pending=pending))
    assert events == ["targets", "targets", "meet", "forward"]
