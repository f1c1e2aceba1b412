"""How long each test file may take: over its budget it is named, over twice that the run fails."""

from __future__ import annotations

import collections
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest

SHARED = "session fixtures"
# Seconds on two slow cores without AVX-512: without the tests marked `everything`, one file after
# another; and with them, two files side by side.
# Fixtures of a session count apart, whichever file is the first to need them.
BUDGETS = {
    "tests/unit/": (20.0, 60.0),
    "tests/system/": (45.0, 90.0),
    # `make cluster-test` alone runs them, two files side by side.
    "tests/cluster/": (200.0, 200.0),
    "tests/cluster/test_cluster.py": (1200.0, 1200.0),
    "tests/cluster/test_documentation.py": (600.0, 600.0),
    "tests/cluster/test_lost_students.py": (500.0, 500.0),
    "tests/system/test_bench_loss.py": (0.0, 150.0),
    "tests/system/test_ablation.py": (0.0, 200.0),
    "tests/system/test_cached_student.py": (75.0, 200.0),
    "tests/system/test_chaos.py": (0.0, 400.0),
    "tests/system/test_elastic_fleet.py": (90.0, 250.0),
    "tests/system/test_fleet.py": (75.0, 75.0),
    "tests/system/test_fp16_student.py": (0.0, 150.0),
    "tests/system/test_kgsf_student.py": (0.0, 250.0),
    "tests/system/test_loopback_fleet.py": (0.0, 150.0),
    "tests/system/test_heartbeat.py": (0.0, 240.0),
    "tests/system/test_mixed_fleet.py": (0.0, 250.0),
    "tests/system/test_one_pass.py": (0.0, 120.0),
    "tests/system/test_other_make.py": (0.0, 150.0),
    "tests/system/test_proof.py": (0.0, 200.0),
    "tests/system/test_resume.py": (200.0, 700.0),
    "tests/system/test_roll.py": (0.0, 600.0),
    "tests/system/test_same_loss.py": (15.0, 200.0),
    "tests/system/test_scaling.py": (0.0, 150.0),
    "tests/system/test_secure_fleet.py": (0.0, 250.0),
    "tests/system/test_served_student.py": (75.0, 250.0),
    "tests/system/test_student_run.py": (45.0, 180.0),
    "tests/system/test_two_hosts.py": (90.0, 120.0),
    "tests/system/test_zero_stages.py": (45.0, 500.0),
    SHARED: (200.0, 270.0),
}


@dataclass(frozen=True, kw_only=True)
class Overrun:
    """A file that took too long."""

    file: str
    seconds: float
    budget_s: float
    slowest: tuple[str, ...]

    @property
    def fails(self) -> bool:
        return self.seconds > 2 * self.budget_s

    def __str__(self) -> str:
        text = f"{self.file} must take at most {self.budget_s:.0f} s, got {self.seconds:.0f} s"
        return f"{text}. Its slowest: {', '.join(self.slowest)}"


def budget_of(file: str, *, everything: bool) -> float:
    """Seconds of a file: its own budget, or that of the folder it is in."""
    longest = max((it for it in BUDGETS if file.startswith(it)), key=len)
    return BUDGETS[longest][everything]


def longest_first(items: list[pytest.Item]) -> None:
    """Put long files first, so that workers, which take whole files, end together."""
    items.sort(key=lambda it: -budget_of(it.nodeid.partition("::")[0], everything=True))


def overruns(spent: dict[str, float], *, everything: bool, slowness: float) -> list[Overrun]:
    """The files over their budgets; `spent` is seconds by node id, `slowness` widens budgets."""
    files: dict[str, list[tuple[float, str]]] = collections.defaultdict(list)
    for node, seconds in spent.items():
        file, _, test = node.partition("::")
        files[file].append((seconds, f"{test} {seconds:.1f} s"))
    found = []
    for file, tests in files.items():
        total = sum(seconds for seconds, _ in tests)
        budget_s = budget_of(file, everything=everything) * slowness
        if total > budget_s:
            slowest = tuple(text for _, text in sorted(tests, reverse=True)[:3])
            found.append(Overrun(file=file, seconds=total, budget_s=budget_s, slowest=slowest))
    return found


class Clock:
    """The plugin that measures; with pytest-xdist it sums up what the workers report."""

    def __init__(self, *, everything: bool, slowness: float) -> None:
        self._everything, self._slowness = everything, slowness
        self._spent: dict[str, float] = collections.defaultdict(float)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: Any, request: Any
    ) -> Generator[None, object, object]:
        started = time.perf_counter()
        try:
            return (yield)
        finally:
            if fixturedef.scope == "session":
                measured = (SHARED, [fixturedef.argname, time.perf_counter() - started])
                request._pyfuncitem.user_properties.append(measured)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        shared_s = 0.0
        if report.when == "setup":
            measured: list[Any] = [it for key, it in report.user_properties if key == SHARED]
            for name, seconds in measured:
                self._spent[f"{SHARED}::{name}"] += seconds
                shared_s += seconds
        self._spent[report.nodeid] += report.duration - shared_s

    def overruns(self) -> list[Overrun]:
        return overruns(self._spent, everything=self._everything, slowness=self._slowness)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for overrun in self.overruns():
            terminalreporter.write_line(f"{'FAILED' if overrun.fails else 'SLOW'} {overrun}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.OK and any(it.fails for it in self.overruns()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
