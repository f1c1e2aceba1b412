"""Steps submitted ahead, with teachers that answer when the test says so."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from protos.target_rows import Targets
from tests.support.evaluation_fakes import write_tiny_data
from trainer import lookahead
from trainer.common.errors import TeacherUnavailable
from trainer.config.distill import DistillConfig
from trainer.config.run import RunConfig, TrainConfig
from trainer.config.schedule import Schedule
from trainer.config.teachers import TeachersConfig
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits
from trainer.kinds.table import TEACHER_KINDS
from trainer.kinds.teacher_kind import TeacherKind
from trainer.lookahead import SubmittedStep, submitted_steps
from trainer.loss.conkd import hard_targets

IN_FLIGHT = 2


@dataclass
class SlowTeachers:
    """Hands out futures that the test sets."""

    kinds: ClassVar[dict[str, TeacherKind]] = TEACHER_KINDS
    asked: list[Future[Targets]] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)

    def submit(self, examples: Sequence[Example], temperature: float = 1.0) -> Future[Targets]:
        self.temperatures.append(temperature)
        self.asked.append(Future())
        return self.asked[-1]

    def close(self) -> None:
        """As a client does: the mixing thread may wait for any of them, and Python for it."""
        for each in self.asked:
            if not each.done():
                each.set_exception(TeacherUnavailable("closed"))


class OneRank:
    rank, world_size, pins_memory = 0, 1, False


def steps_of(
    folder: Path,
    teachers: Any,
    *,
    num_steps: int = 4,
    first_step: int = 0,
    distill: DistillConfig | None = None,
) -> Generator[SubmittedStep]:
    data = write_tiny_data(folder)
    engine: Any = OneRank()
    config = RunConfig(
        data="",
        output="",
        distill=distill or DistillConfig(),
        teachers=TeachersConfig(in_flight=IN_FLIGHT),
        train=TrainConfig(steps=num_steps, batch_size=2, micro_batch_size=1),
    )
    return submitted_steps(
        config,
        engine,
        vocabulary=data.vocabulary,
        examples=data.examples("train"),
        limits=InputLimits(),
        teachers=teachers,
        first_step=first_step,
    )


@pytest.fixture
def mixed_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that mix; what is mixed comes through as it is."""
    names: list[str] = []

    def prepare(positions: object, targets: object, *_: object) -> object:
        names.append(threading.current_thread().name)
        return targets

    monkeypatch.setattr(lookahead, "prepare_targets", prepare)
    return names


def test_targets_are_mixed_beside_the_training_thread_before_they_are_needed(
    tmp_path: Path, mixed_by: list[str]
) -> None:
    teachers = SlowTeachers()
    steps = steps_of(tmp_path, teachers)
    first = next(steps)
    # Two micro-batches of this step, and of each of the steps in flight.
    assert len(teachers.asked) == 2 * (1 + IN_FLIGHT)
    assert (first.step, len(first.pending), mixed_by) == (0, 2, [])
    answers: list[Any] = [object() for _ in teachers.asked]
    for asked, answer in zip(reversed(teachers.asked), reversed(answers), strict=True):
        asked.set_result(answer)
    assert [each.result(10) for each in first.pending] == answers[:2]
    second = next(steps)
    assert [each.result(10) for each in second.pending] == answers[2:4]
    assert set(mixed_by) == {"mix-targets_0"}
    steps.close()
    teachers.close()


def test_error_of_one_micro_batch_is_its_own_alone(tmp_path: Path, mixed_by: list[str]) -> None:
    teachers = SlowTeachers()
    steps = steps_of(tmp_path, teachers)
    step = next(steps)
    teachers.asked[0].set_exception(TeacherUnavailable("gone"))
    answer: Any = object()
    teachers.asked[1].set_result(answer)
    with pytest.raises(TeacherUnavailable, match="gone"):
        step.pending[0].result(10)
    assert step.pending[1].result(10) is answer
    steps.close()
    teachers.close()


def test_run_that_ends_early_waits_for_no_answer(tmp_path: Path, mixed_by: list[str]) -> None:
    teachers = SlowTeachers()
    steps = steps_of(tmp_path, teachers)
    step = next(steps)
    steps.close()
    # The one that the thread waits for ends with the client, the others are given up.
    teachers.close()
    assert isinstance(step.pending[0].exception(10), TeacherUnavailable)
    assert step.pending[1].cancelled()


class Answer:
    """Targets whose memory can be watched."""


@dataclass
class QuickTeachers:
    """Answers at once, and knows which of its answers somebody holds."""

    kinds: ClassVar[dict[str, TeacherKind]] = TEACHER_KINDS
    alive: weakref.WeakSet[Answer] = field(default_factory=weakref.WeakSet)

    def submit(self, examples: Sequence[Example], temperature: float = 1.0) -> Future[Any]:
        received: Future[Any] = Future()
        answer = Answer()
        self.alive.add(answer)
        received.set_result(answer)
        return received


def test_targets_are_held_of_the_steps_in_flight_and_of_the_one_that_is_done(
    tmp_path: Path, mixed_by: list[str]
) -> None:
    teachers = QuickTeachers()
    most, num_steps = 0, 0
    steps = steps_of(tmp_path, teachers, num_steps=12)
    for step in steps:
        # Two micro-batches, of which the first keeps its targets until the step is done.
        for pending in step.pending:
            pending.result(10)
        most, num_steps = max(most, len(teachers.alive)), num_steps + 1
        del pending, step
    assert (num_steps, most) == (12, 2 * (IN_FLIGHT + 1))


def test_steps_without_teachers_have_no_targets(tmp_path: Path) -> None:
    steps = list(steps_of(tmp_path, None))
    assert [step.step for step in steps] == [0, 1, 2, 3]
    assert all(step.pending == () and len(step.inputs) == 2 for step in steps)


COOLING = DistillConfig(
    gamma=0.8,
    gamma_schedule=Schedule(form="linear", to=0.0, steps=3),
    temperature=4.0,
    temperature_schedule=Schedule(form="linear", to=1.0, steps=3),
)


@pytest.mark.parametrize("first_step", [0, 2])
def test_targets_are_asked_for_and_mixed_at_the_settings_of_their_own_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_step: int
) -> None:
    mixed: list[tuple[float, float]] = []

    def prepare(positions: object, targets: object, distill: DistillConfig, *_: object) -> object:
        mixed.append((distill.gamma, distill.temperature))
        return targets

    monkeypatch.setattr(lookahead, "prepare_targets", prepare)
    teachers = SlowTeachers()
    wanted = [(0.8, 4.0), (0.8 * 2 / 3, 3.0), (0.8 / 3, 2.0), (0.0, 1.0), (0.0, 1.0)][first_step:]
    taken = steps_of(tmp_path, teachers, num_steps=5, first_step=first_step, distill=COOLING)
    for number, step in enumerate(taken, first_step):
        assert step.step == number
        if number < 3:
            # Two micro-batches a step, asked `in_flight` steps ago: at this step's temperature.
            place = 2 * (number - first_step)
            assert teachers.temperatures[place : place + 2] == pytest.approx([4.0 - number] * 2)
            for asked in teachers.asked[place : place + 2]:
                asked.set_result({})
        for pending in step.pending:
            pending.result(10)
    # Where gamma has come to 0 nothing is asked.
    assert len(teachers.asked) == 2 * (3 - first_step)
    assert np.array(mixed) == pytest.approx(np.repeat(wanted, 2, axis=0))


def test_step_at_which_gamma_has_come_to_0_learns_from_gold_tokens_alone(tmp_path: Path) -> None:
    steps = steps_of(tmp_path, QuickTeachers(), num_steps=5, first_step=3, distill=COOLING)
    step = next(steps)
    for inputs, pending in zip(step.inputs, step.pending, strict=True):
        prepared = pending.result(10)
        gold = hard_targets(inputs.positions)
        assert (prepared.soft.terms, prepared.soft.is_tempered) == ((), False)
        assert prepared.soft.gold_P.tolist() == gold.gold_P.tolist()
        assert prepared.statistics is not None
        assert (prepared.statistics.num_recommended, prepared.statistics.gate_word) == (0, 0.0)
    steps.close()
