"""What system tests share: uninterrupted runs, fitted teachers, and one fleet on Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.served_teachers import FittedTeachers, Service, fit, serving
from tests.support.student_runs import PLAIN, SERVED, TINY, run_student


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Ray takes a part of a core as long as it is up: tests of the fleet come last.
    items.sort(key=lambda item: "service" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def plain_run(
    prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """The output of an uninterrupted run of two ranks without teachers, by its ZeRO stage.

    It is shared: copy it before you change it.
    """
    runs: dict[int, Path] = {}

    def run_of(stage: int) -> Path:
        if stage not in runs:
            output = tmp_path_factory.mktemp(f"stage{stage}") / "run"
            result = run_student(prepared_dir, output, *PLAIN, f"zero_stage={stage}")
            assert result.returncode == 0, result.stderr
            runs[stage] = output
        return runs[stage]

    return run_of


@pytest.fixture(scope="session")
def teachers(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> FittedTeachers:
    """One teacher of each kind."""
    folder = tmp_path_factory.mktemp("teachers")
    settings = {"dialogue": (*TINY, "train.steps=30"), "recommendation": ("epochs=2",)}
    # Side by side: most of the time they import torch.
    with ThreadPoolExecutor() as pool:
        fits = {
            kind: pool.submit(fit, kind, prepared_dir, folder / kind, *overrides)
            for kind, overrides in settings.items()
        }
    return FittedTeachers(**{kind: it.result() for kind, it in fits.items()})


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
