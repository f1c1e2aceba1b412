"""A run on two hosts, as a job of a Ray cluster; the whole story is in tests/cluster."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.netns.lab import Lab
from tests.support.labs import need_lab
from tests.support.student_runs import PLAIN, PLAIN_STEPS, TINY, loss_curve

PORT = "6379"
NODE = (
    *("--num-cpus=0", "--num-gpus=0", '--resources={"student": 1, "supervisor": 1}'),
    # A run needs neither.
    *("--include-log-monitor=false", "--object-store-memory=100000000"),
)
HEAD = ("--head", f"--port={PORT}", "--include-dashboard=false")
# As in the cluster's files: ranks do not come after everything else on the machine.
# The second host waits for the head, however long that takes to start.
SETTINGS = {"RAY_worker_niceness": "0", "RAY_gcs_server_port_wait_time_s": "300"}
STUDENTS = ("python", "-m", "cluster.students")
RUN = "two"
LIMIT_S = 400.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def lab(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two student nodes, the first of which is the head too."""
    need_lab()
    with Lab(tmp_path_factory.mktemp("lab"), hosts=("one", "two"), shared=shared) as lab:
        starts = {"one": HEAD, "two": (f"--address=one:{PORT}",)}

        def start(name: str) -> None:
            lab[name].run("ray", "start", *starts[name], *NODE, env=SETTINGS, timeout_s=LIMIT_S)

        # Side by side: the second one waits for the first.
        with ThreadPoolExecutor() as pool:
            list(pool.map(start, starts))
        yield lab


@pytest.mark.timeout(1200)
def test_loss_curve_of_stage_3_on_two_hosts_is_that_of_stage_1_on_one(
    lab: Lab, shared: Path, prepared_dir: Path, plain_run: Callable[[int], Path]
) -> None:
    shutil.copytree(prepared_dir, shared / "data" / "prepared")
    started = lab["one"].run(
        *(*STUDENTS, "run", "--name", RUN, "--nodes", "2", "--slots", "1", "--"),
        *("--config", "trainer/configs/synthetic.yaml", "data=/shared/data/prepared"),
        *(*TINY, *PLAIN, "zero_stage=3"),
        timeout_s=LIMIT_S,
    )
    assert "is started on 2 nodes" in started.stdout
    # From another host than the one that started it; it ends with the run's status.
    log = lab["two"].run(*STUDENTS, "follow", "--name", RUN, timeout_s=LIMIT_S).stdout
    curve = loss_curve(shared / "runs" / RUN)
    assert len(curve) == PLAIN_STEPS, log
    assert curve == pytest.approx(loss_curve(plain_run(1)), rel=1e-3)
