"""Schedules of settings: values by hand, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trainer.config.distill import DistillConfig
from trainer.config.run import RunConfig
from trainer.config.schedule import Schedule
from trainer.config.teachers import TeachersConfig
from trainer.config.yaml_file import parse_config

BACK = {"form": "linear", "to": 1.0, "steps": 10}


def by_hand(form: str, start: float, to: float, steps: int, step: int) -> float:
    """The sum of what every step adds, one by one."""
    value = start
    for done in range(1, min(step, steps) + 1):
        if form == "linear":
            value += (to - start) / steps
        else:
            before, after = math.cos(math.pi * (done - 1) / steps), math.cos(math.pi * done / steps)
            value += (to - start) * (before - after) / 2
    return value


@pytest.mark.parametrize(("start", "to"), [(0.8, 0.2), (4.0, 1.0), (0.1, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("form", ["linear", "cosine"])
def test_schedule_is_the_sum_of_its_steps(form: Any, steps: int, start: float, to: float) -> None:
    schedule = Schedule(form=form, to=to, steps=steps)
    for step in range(steps + 3):
        wanted = by_hand(form, start, to, steps, step)
        assert schedule.value(start, step) == pytest.approx(wanted, abs=1e-12)
    assert schedule.value(start, 0) == start
    assert {schedule.value(start, steps + more) for more in (0, 1, 10**9)} == {to}


def test_cosine_starts_and_ends_slowly() -> None:
    even, slow = (Schedule(form=form, to=0.0, steps=8) for form in ("linear", "cosine"))
    assert slow.value(1.0, 1) > even.value(1.0, 1)
    assert slow.value(1.0, 4) == pytest.approx(even.value(1.0, 4))
    assert slow.value(1.0, 7) < even.value(1.0, 7)


def test_settings_of_a_step_are_those_of_its_schedules() -> None:
    plain = DistillConfig(temperature=2.0)
    assert plain.at(7) is plain
    config = DistillConfig(
        gamma=0.8,
        gamma_schedule=Schedule(form="linear", to=0.0, steps=4),
        temperature=4.0,
        temperature_schedule=Schedule(form="linear", to=1.0, steps=6),
        eta=0.3,
    )
    assert config.temperatures == (1.0, 4.0)
    steps = [config.at(step) for step in (0, 1, 4, 6, 100)]
    assert [it.gamma for it in steps] == pytest.approx([0.8, 0.6, 0.0, 0.0, 0.0])
    assert [it.temperature for it in steps] == pytest.approx([4.0, 3.5, 2.0, 1.0, 1.0])
    # A step's settings are settled: nothing of them changes with a step any more.
    assert all(it.at(50) is it and it.eta == 0.3 for it in steps)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"temperature": 0.2}, r"distill.temperature must be in \[0.25, 20\], got 0.2"),
        ({"temperature": 0.0}, r"distill.temperature must be in \[0.25, 20\], got 0"),
        ({"temperature": 21}, r"distill.temperature must be in \[0.25, 20\], got 21"),
        (
            {"temperature_schedule": {**BACK, "to": 30}},
            r"distill.temperature_schedule.to must be in \[0.25, 20\], got 30",
        ),
        (
            {"gamma_schedule": {**BACK, "to": 1.5}},
            r"distill.gamma_schedule.to must be in \[0, 1\], got 1.5",
        ),
        (
            {"gamma_schedule": {**BACK, "steps": 0}},
            "gamma_schedule.steps must be at least 1, got 0",
        ),
        ({"gamma_schedule": {"form": "linear", "to": 0.5}}, "must be given .*, got 0.5 and None"),
        ({"gamma_schedule": {"form": "cosine", "steps": 5}}, "must be given .*, got None and 5"),
        ({"gamma_schedule": {"to": 0.5}}, "only then, got 0.5 and None with constant"),
        ({"gamma_schedule": {**BACK, "form": "constant"}}, "only then, got 1.0 and 10 with const"),
        ({"gamma_schedule": {**BACK, "form": "step"}}, "gamma_schedule.form must be 'constant'"),
        ({"gamma_schedule": {"epochs": 2}}, "unknown key distill.gamma_schedule.epochs. "),
        ({"gamma_schedule": [0.8, 0.2]}, "gamma_schedule must be a group of settings"),
        ({"gamma": 0, "gamma_schedule": BACK}, "distill.gamma must be above 0 with .*, got 0"),
    ],
    ids=str,
)
def test_wrong_temperatures_and_schedules_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_config(RunConfig, {"data": "a", "output": "b", "distill": settings}, "file")


def test_temperature_that_changes_is_refused_beside_a_cache_of_targets() -> None:
    changing = DistillConfig(
        temperature=4.0, temperature_schedule=Schedule(form="cosine", to=1.0, steps=5)
    )
    with pytest.raises(ValueError, match=r"beside teachers\.cache, got cosine: targets at"):
        RunConfig(data="a", output="b", distill=changing, teachers=TeachersConfig(cache="c"))
    RunConfig(data="a", output="b", distill=changing)
    same = DistillConfig(temperature=4.0, gamma_schedule=Schedule(form="linear", to=0.1, steps=5))
    RunConfig(data="a", output="b", distill=same, teachers=TeachersConfig(cache="c"))
