"""What system tests share: uninterrupted runs, fitted teachers, and one fleet on Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.budgets import longest_first
from tests.support.made_once import made_once
from tests.support.served_teachers import FittedTeachers, Service, fit_both, serving
from tests.support.student_runs import SERVED, plain_student, run_student


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    longest_first(items)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        # Ray takes a part of a core as long as it is up: tests of the fleet come last.
        items.sort(key=lambda item: "service" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def plain_run(
    prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """The output of an uninterrupted run of two ranks without teachers, by its ZeRO stage.

    It is shared: copy it before you change it.
    """

    def run_of(stage: int) -> Path:
        return made_once(
            tmp_path_factory, f"stage{stage}", partial(plain_student, prepared_dir, stage=stage)
        )

    return run_of


@pytest.fixture(scope="session")
def teachers(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> FittedTeachers:
    """One teacher of each kind."""
    folder = made_once(tmp_path_factory, "teachers", partial(fit_both, prepared_dir))
    return FittedTeachers(dialogue=folder / "dialogue", recommendation=folder / "recommendation")


@pytest.fixture(scope="session")
def service(
    teachers: FittedTeachers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The fleet on Ray, one replica of each kind. A test that scales it puts it back."""
    with serving(tmp_path_factory.mktemp("service"), teachers) as service:
        yield service


@pytest.fixture(scope="session")
def served_run(
    service: Service, prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of a student of two ranks that learnt from the fleet on Ray."""
    output = tmp_path_factory.mktemp("served") / "run"
    directory = f"teachers.directory={service.directory}"
    result = run_student(prepared_dir, output, *SERVED, directory, "zero_stage=1")
    assert result.returncode == 0, result.stderr
    return output
