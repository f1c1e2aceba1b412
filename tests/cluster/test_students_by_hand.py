"""One student on two hosts by DeepSpeed's own command, started on each by hand, without Ray."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.netns.host import HostProcess
from cluster.netns.lab import Lab
from cluster.students.lease import LOST_S
from tests.support.labs import need_lab
from tests.support.student_runs import PLAIN, TINY, loss_curve, step_lines

pytestmark = pytest.mark.timeout(900)
HOSTS = ("one", "two")
LIMIT_S = 300.0
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, prepared_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(prepared_dir, folder / "data")
    (folder / "hosts").write_text("".join(f"{name} slots=1\n" for name in HOSTS))
    return folder


@pytest.fixture(scope="module")
def lab(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    need_lab()
    with Lab(tmp_path_factory.mktemp("lab"), hosts=HOSTS, shared=shared) as lab:
        yield lab


def start(lab: Lab, shared: Path, run: str, *settings: str) -> list[HostProcess]:
    """The same command on both hosts. To each its own name is 127.0.1.1, as Debian has it."""
    launch = ("deepspeed", "--hostfile", "/shared/hosts", "--no_ssh", "--master_addr", HOSTS[0])
    student = ("trainer/main.py", "--config", "trainer/configs/synthetic.yaml")
    paths = ("data=/shared/data", f"output=/shared/{run}")
    return [
        lab[name].start(
            *(*launch, "--node_rank", str(rank), *student, *paths, *TINY, *settings),
            log=shared / f"{run}-{name}.log",
            env=ENVIRONMENT,
        )
        for rank, name in enumerate(HOSTS)
    ]


def test_loss_curve_is_that_of_one_host(lab: Lab, shared: Path, plain_run: Path) -> None:
    commands = start(lab, shared, "plain", *PLAIN, "zero_stage=2")
    assert [each.wait(LIMIT_S) for each in commands] == [0, 0]
    curve = loss_curve(shared / "plain")
    assert curve == pytest.approx(loss_curve(plain_run), rel=1e-3)


def test_host_without_power_is_one_line_on_the_other_that_ends(lab: Lab, shared: Path) -> None:
    settings = ("distill.gamma=0", "train.steps=1000000")
    first, _ = start(lab, shared, "endless", *settings)
    deadline = time.monotonic() + LIMIT_S
    while not ((shared / "endless" / "metrics.jsonl").exists() and step_lines(shared / "endless")):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    lab["two"].power_off()
    began_s = time.monotonic()
    assert first.wait(LIMIT_S) == 2
    # The bar is 30 s; a busy machine is later, and without the beats it was a quarter of an hour.
    assert time.monotonic() - began_s < 5 * LOST_S
    lines = (shared / "endless-one.log").read_text().splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    assert len(said) == 1 and "got no sign of life of rank 1 (two) for 25 s" in said[0]
