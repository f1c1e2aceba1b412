"""What system tests share: uninterrupted runs, fitted teachers, and one fleet on Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.budgets import budget_of
from tests.support.made_once import made_once
from tests.support.served_teachers import FittedTeachers, Service, fit, serving
from tests.support.student_runs import PLAIN, SERVED, TINY, run_student


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that two workers, which take whole files, end together."""
    items.sort(key=lambda item: -budget_of(_file(item), everything=True))
    if "PYTEST_XDIST_WORKER" not in os.environ:
        # Ray takes a part of a core as long as it is up: tests of the fleet come last.
        items.sort(key=lambda item: "service" in getattr(item, "fixturenames", ()))


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@pytest.fixture(scope="session")
def plain_run(
    prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """The output of an uninterrupted run of two ranks without teachers, by its ZeRO stage.

    It is shared: copy it before you change it.
    """

    def run_of(stage: int) -> Path:
        def run(output: Path) -> None:
            result = run_student(prepared_dir, output, *PLAIN, f"zero_stage={stage}")
            assert result.returncode == 0, result.stderr

        return made_once(tmp_path_factory, f"stage{stage}", run)

    return run_of


@pytest.fixture(scope="session")
def teachers(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> FittedTeachers:
    """One teacher of each kind."""
    settings = {"dialogue": (*TINY, "train.steps=30"), "recommendation": ("epochs=2",)}

    def fit_all(folder: Path) -> None:
        # Side by side: most of the time they import torch.
        with ThreadPoolExecutor() as pool:
            fits = [
                pool.submit(fit, kind, prepared_dir, folder / kind, *overrides)
                for kind, overrides in settings.items()
            ]
        for each in fits:
            each.result()

    folder = made_once(tmp_path_factory, "teachers", fit_all)
    return FittedTeachers(**{kind: folder / kind for kind in settings})


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
