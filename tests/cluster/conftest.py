"""What tests of a whole cluster share: fitted teachers, and one cluster of six hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.netns.lab import Lab
from tests.support.cluster_story import HOSTS, LAPTOP, Story, write_file
from tests.support.labs import need_lab
from tests.support.made_once import made_once
from tests.support.served_teachers import FittedTeachers, fit
from tests.support.student_runs import TINY


@pytest.fixture(scope="session")
def teachers(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> FittedTeachers:
    """One teacher of each kind."""

    def fit_both(folder: Path) -> None:
        fit("dialogue", prepared_dir, folder / "dialogue", *TINY, "train.steps=30")
        fit("recommendation", prepared_dir, folder / "recommendation", "epochs=2")

    folder = made_once(tmp_path_factory, "teachers", fit_both)
    return FittedTeachers(dialogue=folder / "dialogue", recommendation=folder / "recommendation")


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
