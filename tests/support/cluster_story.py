"""A cluster of namespaced hosts as its user has it: commands on the laptop, and what they print."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.netns.host import Host
from cluster.netns.lab import Lab
from tests.support.student_runs import EXACT, TINY, step_lines

LAPTOP, HEAD = "laptop", "head"
TEACHERS, STUDENTS = ("teacher1", "teacher2"), ("student1", "student2")
HOSTS = (LAPTOP, HEAD, *TEACHERS, *STUDENTS)
FILE = "cluster/local.yaml"
RUN = "story"
# At a constant rate a loss does not depend on the number of steps.
SETTINGS = (
    *EXACT,
    *TINY,
    "seed=7",
    "zero_stage=2",
    "optimiser.schedule=constant",
    "train.batch_size=8",
)
EXAMPLES = {
    "192.0.2.10": HEAD,
    **dict(zip(("192.0.2.11", "192.0.2.12"), TEACHERS, strict=True)),
    **dict(zip(("192.0.2.13", "192.0.2.14"), STUDENTS, strict=True)),
}
COMMAND_S = 600.0
LOOK_S = 1.0


@dataclass(kw_only=True)
class Story:
    """The cluster of one lab, from its laptop.

    Attributes:
        lab: its hosts.
        shared: the shared folder, as this machine sees it.
        slowness: how much slower than two quiet cores the machine is; bars of time are so much
            wider.
        events: what was done, by the step that the run was at.
    """

    lab: Lab
    shared: Path
    slowness: float = 1.0
    events: dict[str, int] = field(default_factory=dict)

    def command(
        self, *arguments: str | Path, check: bool = True, timeout_s: float = COMMAND_S
    ) -> str:
        """What `python -m cluster ...` prints on the laptop."""
        return self.ended(*arguments, check=check, timeout_s=timeout_s).stdout

    def ended(
        self, *arguments: str | Path, check: bool = True, timeout_s: float = COMMAND_S
    ) -> subprocess.CompletedProcess[str]:
        """The same command, when it has ended."""
        return self.lab[LAPTOP].run(
            *("python", "-m", "cluster", *arguments),
            env={"CONKD_CLUSTER": FILE},
            timeout_s=timeout_s * self.slowness,
            check=check,
        )

    def status(self) -> dict[str, Any]:
        """`python -m cluster status --json`."""
        done = self.ended("status", "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def nodes(self) -> dict[str, list[str]]:
        """Names of the nodes that are alive, by kind."""
        by_address = {host.address: name for name, host in self.lab.items()}
        nodes = self.status()["nodes"]
        return {kind: [by_address[it] for it in found] for kind, found in nodes.items()}

    def replicas(self, kind: str) -> list[str]:
        """Names of the hosts of a kind's replicas that serve."""
        by_address = {host.address: name for name, host in self.lab.items()}
        kinds = (self.status()["fleet"] or {"kinds": {}})["kinds"]
        addresses = [it["address"] for it in kinds[kind]["replicas"]] if kind in kinds else []
        return sorted(by_address[it.rpartition(":")[0]] for it in addresses if it)

    @property
    def run_folder(self) -> Path:
        """The run, as this machine sees it."""
        return self.shared / "runs" / RUN

    @property
    def supervisor(self) -> dict[str, Any]:
        """What the run's supervisor last wrote."""
        return json.loads((self.run_folder / "supervisor.json").read_text())

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; none before there is one."""
        if not (self.run_folder / "metrics.jsonl").is_file():
            return []
        return step_lines(self.run_folder)

    @property
    def step(self) -> int:
        """The last step that was written."""
        steps = self.steps
        return steps[-1]["step"] if steps else 0

    def note(self, event: str) -> int:
        """Remember at which step something is done; the step."""
        self.events[event] = self.step
        return self.events[event]

    def wait_until(self, what: str, condition: Callable[[], bool], *, limit_s: float) -> float:
        """Look until a condition holds; the seconds that it took."""
        started_s = time.monotonic()
        while not condition():
            waited_s = time.monotonic() - started_s
            assert waited_s < limit_s * self.slowness, f"{what}, after {waited_s:.0f} s not so"
            time.sleep(LOOK_S)
        return time.monotonic() - started_s

    def wait_for_steps(self, count: int, *, limit_s: float) -> float:
        """Wait for more steps of the run; the seconds that it took."""
        goal = self.step + count
        return self.wait_until(f"step {goal}", lambda: self.step >= goal, limit_s=limit_s)

    def longest_step_s(self, since: int) -> float:
        """The longest step after a step: the stall that an event was to the run."""
        return max(it["step_s"] for it in self.steps if it["step"] > since)

    def processes(self, name: str, pattern: str) -> list[int]:
        """Ids of the processes of a host, as it counts, whose command line has a pattern."""
        found = self.lab[name].run("pgrep", "-f", pattern, check=False).stdout
        return [int(it) for it in found.split()]


def write_file(laptop: Host, addresses: Mapping[str, str]) -> None:
    """cluster/local.yaml on the laptop, edited as its user does: addresses, and who logs in."""
    path = laptop.home / "conkd" / FILE
    text = path.read_text().replace("ssh_user: ubuntu", "ssh_user: root")
    for example, name in EXAMPLES.items():
        assert example in text
        text = text.replace(example, addresses[name])
    path.write_text(text)


def bring(laptop: Host, *folders: Path) -> list[Path]:
    """Copy folders to the laptop; their paths there, relative to the sources."""
    for folder in folders:
        shutil.copytree(folder, laptop.home / "conkd" / "build" / folder.name)
    return [Path("build") / folder.name for folder in folders]
