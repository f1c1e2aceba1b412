"""CPUs and memory of a process by files of a container's groups."""

from __future__ import annotations

import importlib.util
import os
import types
from pathlib import Path

import psutil
import pytest

from trainer.common import machine
from trainer.common.machine import limit_threads, memory_bytes, num_cpus


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


def write(tmp_path: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "cgroup", tmp_path / "own"


def groups(tmp_path: Path, own: str, files: dict[str, str]) -> int:
    return num_cpus(*write(tmp_path, own, files))


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        *[("200000 100000", 2), ("250000 100000", 3), ("10000 100000", 1), ("max 100000", 8)],
        *[("6400000 100000", 8), ("", 8), ("nonsense", 8)],
    ],
)
def test_quota_of_version_2_bounds_the_cpus(tmp_path: Path, quota: str, cpus: int) -> None:
    assert groups(tmp_path, "0::/\n", {"cpu.max": quota}) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("300000", 3), ("-1", 8), ("150000", 2)])
def test_quota_of_version_1_bounds_the_cpus(tmp_path: Path, quota: str, cpus: int) -> None:
    files = {"cpu,cpuacct/cpu.cfs_quota_us": quota, "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    assert groups(tmp_path, "4:cpu,cpuacct:/\n3:memory:/\n", files) == cpus


def test_quota_of_a_group_further_up_counts_too(tmp_path: Path) -> None:
    files = {"pod/cpu.max": "400000 100000", "pod/box/cpu.max": "max 100000"}
    assert groups(tmp_path, "0::/pod/box\n", files) == 4


def test_path_of_the_host_in_a_container_leaves_the_root(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/host/only\n", {"cpu.max": "100000 100000"}) == 1


def test_machine_without_groups_has_the_cpus_of_the_affinity(tmp_path: Path) -> None:
    assert num_cpus(tmp_path, tmp_path / "none") == 8


@pytest.mark.parametrize(
    ("own", "files", "memory"),
    [
        ("0::/", {"memory.max": "max"}, 1 << 34),
        ("0::/", {"memory.max": str(1 << 30)}, 1 << 30),
        ("0::/", {"memory.max": str(1 << 40)}, 1 << 34),
        ("0::/a", {"memory.max": "1000", "a/memory.max": "2000"}, 1000),
        ("7:memory:/", {"memory/memory.limit_in_bytes": "4096"}, 4096),
        ("7:memory:/", {"memory/memory.limit_in_bytes": str((1 << 63) - 4096)}, 1 << 34),
        ("", {}, 1 << 34),
    ],
)
def test_memory_is_that_of_the_tightest_group(
    own: str, files: dict[str, str], memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = types.SimpleNamespace(total=1 << 34)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: total)
    assert memory_bytes(*write(tmp_path, own, files)) == memory


@pytest.mark.parametrize(
    ("quota", "ranks", "given", "threads"),
    [
        *[(2, None, None, "2"), (3, "2", None, "1"), (1, "4", None, "1"), (2, "x", None, "2")],
        *[(2, None, "5", "5"), (8, None, None, None)],
    ],
)
def test_threads_follow_the_quota_and_what_is_given_goes_before_it(
    monkeypatch: pytest.MonkeyPatch,
    quota: int,
    ranks: str | None,
    given: str | None,
    threads: str | None,
) -> None:
    monkeypatch.setattr(machine, "num_cpus", lambda: quota)
    for name, value in (("LOCAL_SIZE", ranks), ("OMP_NUM_THREADS", given)):
        # First set, so that what is set in the test is taken back.
        monkeypatch.setenv(name, value or "")
        if value is None:
            monkeypatch.delenv(name)
    limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == threads


def test_variable_of_the_ranks_of_a_node_is_the_one_that_deepspeed_sets() -> None:
    source = importlib.util.find_spec("deepspeed.launcher.launch")
    assert source is not None and source.origin is not None
    assert '["LOCAL_SIZE"] = ' in Path(source.origin).read_text()
