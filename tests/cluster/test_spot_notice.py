"""A spot node that EC2 is about to take away: its teacher serves elsewhere before it goes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.netns.lab import Lab
from tests.support.fake_metadata import notice
from tests.support.labs import need_lab
from tests.support.served_teachers import fit
from tests.support.student_runs import ROOT

pytestmark = pytest.mark.timeout(900)
PORT = "6379"
METADATA = "169.254.169.254"
FAKE = ROOT / "tests" / "support" / "fake_metadata.py"
TEACHERS = ("python", "-m", "teacher_server")
NODE = ("--num-cpus=2", "--num-gpus=0", '--resources={"teacher": 1}')
LIMIT_S = 240.0


@pytest.fixture(scope="module")
def lab(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A head and two teacher nodes."""
    need_lab()
    shared = tmp_path_factory.mktemp("shared")
    fit("recommendation", prepared_dir, shared / "recommendation", "epochs=1")
    with Lab(tmp_path_factory.mktemp("lab"), hosts=("head", "one", "two"), shared=shared) as lab:
        head = ("--head", f"--port={PORT}", "--num-cpus=0", "--num-gpus=0")
        lab["head"].run("ray", "start", *head, timeout_s=LIMIT_S)
        for name in ("one", "two"):
            lab[name].run("ray", "start", f"--address=head:{PORT}", *NODE, timeout_s=LIMIT_S)
        yield lab


def serving(lab: Lab) -> dict[str, str]:
    """Id and host of all replicas that serve."""
    answer = lab["head"].run(*TEACHERS, "status", "--json", timeout_s=LIMIT_S).stdout
    hosts = {lab[name].address: name for name in ("one", "two")}
    return {
        it["replica_id"]: hosts[it["address"].partition(":")[0]]
        for it in json.loads(answer)["kinds"]["recommendation"]["replicas"]
        # Listed in the Directory: students ask it.
        if it["address"]
    }


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


def test_replica_moves_before_its_node_goes(lab: Lab, tmp_path: Path) -> None:
    lab["head"].run(
        *(*TEACHERS, "up", "--address", "auto", "--host", "0.0.0.0", "--insecure"),
        *("--recommendation", "/shared/recommendation", "--replicas", "recommendation=1"),
        timeout_s=LIMIT_S,
    )
    ((before, place),) = serving(lab).items()
    node, log = lab[place], tmp_path / "watch.log"
    node.run("ip", "address", "add", f"{METADATA}/32", "dev", "lo", timeout_s=LIMIT_S)
    # A host sees its own home and no other temporary folder.
    (node.home / FAKE.name).write_text(FAKE.read_text())
    fake = ("python", f"../{FAKE.name}", METADATA, "80", "../notice")
    service = node.start(*fake, log=tmp_path / "service.log")
    watch = node.start("python", "-m", "cluster.aws.spot", log=log)
    try:
        (node.home / "notice").write_text(notice(120))
        seen: list[set[str]] = []

        def moved() -> bool:
            seen.append(set(serving(lab)))
            return bool(seen[-1] - {before})

        wait_for(moved)
        assert all(seen), "one replica at least serves all the time"
        wait_for(lambda: list(serving(lab)) == list(seen[-1] - {before}))
        (other,) = serving(lab).values()
        assert other != place
        assert watch.wait(LIMIT_S) == 0
        assert "spot notice: this node goes in" in log.read_text()
    finally:
        for process in (watch, service):
            process.kill()
            process.wait()
