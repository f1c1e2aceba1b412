"""A run of students on three hosts that lose processes and links, one after the other.

The tests are one story, of one run. Hosts without power, and the head, are in test_cluster.py.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.netns.lab import Lab
from cluster.students.lease import LEASE_S, LOST_S
from tests.support.labs import need_lab
from tests.support.student_runs import TINY, step_lines

pytestmark = pytest.mark.timeout(900)
STUDENTS = ("student1", "student2")
# Ray is quick to see that a node is gone; RAY_worker_niceness: ranks beside other tests.
SETTINGS = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_worker_niceness": "0",
    "DS_ACCELERATOR": "cpu",
}
RANK, GUARD = "trainer/main.py", "cluster.students.launch_guard"
LIMIT_S = 240.0
ENDLESS = ("distill.gamma=0", "train.steps=1000000", "train.checkpoint_every=100", "zero_stage=2")
COMMAND = ("python", "-m", "cluster.students")


@dataclass(frozen=True, kw_only=True)
class World:
    lab: Lab
    shared: Path

    def students(self, *arguments: str, check: bool = True) -> Any:
        return self.lab["head"].run(*COMMAND, *arguments, timeout_s=LIMIT_S, check=check)

    def start(self, name: str, *settings: str) -> None:
        self.students(
            *("run", "--name", name, "--nodes", "2", "--slots", "1", "--"),
            *("--config", "trainer/configs/synthetic.yaml", "data=/shared/data", *TINY, *settings),
        )

    def join(self, name: str) -> None:
        resources = '--resources={"student": 1, "supervisor": 1}'
        address = f"--address={self.lab['head'].address}:6379"
        options = (address, "--num-cpus=0", "--num-gpus=0", resources)
        self.lab[name].run("ray", "start", *options, env=SETTINGS, timeout_s=LIMIT_S)

    def state(self, run: str = "long") -> dict[str, Any]:
        path = self.shared / "runs" / run / "supervisor.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def log(self, run: str = "long") -> str:
        return (self.shared / "runs" / run / "train.log").read_text()

    def processes(self, name: str, pattern: str) -> list[str]:
        return self.lab[name].run("pgrep", "-f", pattern, check=False).stdout.split()

    def supervisor(self) -> tuple[str, str]:
        """The host of the supervisor, and the other one."""
        here = [each for each in STUDENTS if self.processes(each, "ray::Supervisor")]
        assert len(here) == 1
        return here[0], next(each for each in STUDENTS if each != here[0])

    def trains(self, attempt: int) -> bool:
        """Whether an attempt, or one after it, has done a step."""
        if self.state().get("attempt", 0) < attempt:
            return False
        lines = self.log().rpartition("attempt ")[2].splitlines()
        return any(line.startswith("step ") for line in lines)

    def has_ended(self, *patterns: str) -> bool:
        return not any(self.processes(host, each) for host in STUDENTS for each in patterns)


def wait_until(what: str, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> float:
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < limit_s, f"{what}: not so after {limit_s:.0f} s"
        time.sleep(0.3)
    return time.monotonic() - began_s


@pytest.fixture(scope="module")
def world(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    need_lab()
    shared = tmp_path_factory.mktemp("shared")
    shutil.copytree(prepared_dir, shared / "data")
    hosts = ("head", *STUDENTS)
    with Lab(tmp_path_factory.mktemp("lab"), hosts=hosts, shared=shared) as lab:
        head = ("--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false")
        lab["head"].run("ray", "start", *head, env=SETTINGS, timeout_s=LIMIT_S)
        world = World(lab=lab, shared=shared)
        for name in STUDENTS:
            world.join(name)
        yield world


def test_mistake_in_the_settings_ends_the_run_with_the_status_and_one_line(world: World) -> None:
    world.start("mistaken", "distill.gamma=0", "data=/shared/nowhere")
    followed = world.students("follow", "--name", "mistaken", check=False)
    assert followed.returncode == world.state("mistaken")["exit_status"] == 2
    errors = [line for line in followed.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "/shared/nowhere must be a prepared folder" in errors[0]
    assert world.state("mistaken")["state"] == "failed"
    assert world.has_ended(RANK, GUARD)


def test_second_run_of_a_name_finds_the_first(world: World) -> None:
    world.start("long", *ENDLESS)
    wait_until("steps", lambda: world.state().get("step", 0) > 20)
    again = world.students(
        "run", "--name", "long", "--", "--config", "trainer/configs/synthetic.yaml"
    )
    assert "run long goes on already, running: attempt 1: 2 ranks on 2 nodes" in again.stdout


def test_link_that_is_back_soon_costs_no_attempt(world: World) -> None:
    _, other = world.supervisor()
    world.lab[other].unplug()
    time.sleep(LEASE_S / 3)
    world.lab[other].plug_in()
    step = world.state()["step"]
    wait_until("more steps", lambda: world.state()["step"] > step + 20)
    assert world.state()["attempt"] == 1


def test_ranks_of_a_node_that_is_cut_off_end_before_others_start(world: World) -> None:
    wait_until("a checkpoint", lambda: world.state()["step"] > 120)
    _, other = world.supervisor()
    world.lab[other].unplug()
    lost_s = wait_until("a line says so", lambda: "student node lost: " in world.log())
    # On a quiet machine LOST_S and a few looks; a busy one looks later.
    assert lost_s < 2 * LOST_S
    # Ray may have seen it before the lease was over: then the next attempt has waited for that.
    wait_until("the next attempt", lambda: world.state()["attempt"] == 2)
    assert not world.processes(other, RANK) and not world.processes(other, GUARD)
    wait_until("one rank trains", lambda: world.trains(2))
    assert (world.state()["ranks"], len(world.state()["nodes"])) == (1, 1)


def test_node_that_is_back_is_taken_in_at_a_checkpoint(world: World) -> None:
    _, other = world.supervisor()
    world.lab[other].plug_in()
    # Its raylet was given up; a cluster's own file starts it again (cluster/machines).
    wait_until("its raylet has ended", lambda: not world.processes(other, "raylet/raylet"))
    world.join(other)
    wait_until("two ranks train", lambda: world.trains(3))
    assert world.state()["ranks"] == 2
    assert "more student nodes are free; going on from step" in world.log()


def test_actor_that_is_killed_leaves_no_process_and_costs_an_attempt(world: World) -> None:
    _, other = world.supervisor()
    ranks = world.processes(other, RANK)
    world.lab[other].run("kill", "-9", *world.processes(other, "ray::StudentNode"))
    wait_until("its ranks end", lambda: not {*ranks} & {*world.processes(other, RANK)}, 30)
    wait_until("two ranks train", lambda: world.trains(4))
    assert world.state()["ranks"] == 2


def test_supervisor_that_is_killed_is_followed_by_another(world: World) -> None:
    host, _ = world.supervisor()
    world.lab[host].run("kill", "-9", *world.processes(host, "ray::Supervisor"))
    wait_until("two ranks train", lambda: world.trains(5))
    assert (world.state()["epoch"], world.state()["ranks"]) == (2, 2)


def test_stop_leaves_no_process_and_every_step_is_there_once(world: World) -> None:
    said = world.students("stop", "--name", "long").stdout
    assert said.startswith("run long has ended, stopped, after step ")
    wait_until("all have ended", lambda: world.has_ended(RANK, GUARD, "ray::StudentNode"), 30)
    wait_until("the supervisor has ended", lambda: world.has_ended("ray::Supervisor"), 30)
    assert world.students("follow", "--name", "long", check=False).returncode == 143
    steps = [entry["step"] for entry in step_lines(world.shared / "runs" / "long")]
    assert steps == list(range(1, len(steps) + 1))
