"""What tests of hosts in namespaces share: fitted teachers, a plain run, a cluster of six hosts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cluster.netns.lab import Lab
from tests.support.budgets import longest_first
from tests.support.cluster_story import HOSTS, LAPTOP, Story, write_file
from tests.support.labs import need_lab
from tests.support.made_once import made_once
from tests.support.served_teachers import FittedTeachers, fit_both
from tests.support.student_runs import plain_student


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    longest_first(items)


@pytest.fixture(scope="session")
def teachers(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> FittedTeachers:
    """One teacher of each kind."""
    folder = made_once(tmp_path_factory, "teachers", partial(fit_both, prepared_dir))
    return FittedTeachers(dialogue=folder / "dialogue", recommendation=folder / "recommendation")


@pytest.fixture(scope="session")
def plain_run(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an uninterrupted run of two ranks without teachers, at ZeRO stage 1."""
    return made_once(tmp_path_factory, "plain", partial(plain_student, prepared_dir, stage=1))


@pytest.fixture(scope="module")
def story(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    """Six hosts: a laptop with the sources, and five that nobody has touched yet."""
    need_lab()
    folder = tmp_path_factory.mktemp("lab")
    with Lab(folder, hosts=HOSTS, shared=folder / "shared", installed=(LAPTOP,)) as lab:
        write_file(lab[LAPTOP], {name: host.address for name, host in lab.items()})
        yield Story(
            lab=lab, shared=folder / "shared", slowness=request.config.option.budgets or 1.0
        )
