"""CPUs and memory that this process may use: the machine's, and the limits of a container."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

WHOLE = re.compile("[0-9]{1,6}")
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def num_cpus(cgroups: Path = CGROUPS, own_groups: Path = OWN_GROUPS) -> int:
    """CPUs for this process, at least one; a quota of parts of a CPU is rounded up."""
    quotas = [math.ceil(quota) for quota in _quotas(cgroups, own_groups)]
    return max(1, min([_num_available(), *quotas]))


def limit_threads() -> None:
    """Give the libraries that compute no more threads than the CPU quota of a container.

    They count the CPUs of the machine: 64 threads on a quota of two wait for each other. Ranks of
    one node share the quota. Call it before they are imported; OMP_NUM_THREADS goes before it.
    """
    cpus = num_cpus()
    if cpus < _num_available():
        # DeepSpeed's launcher sets it: the ranks of this node.
        ranks = os.environ.get("LOCAL_SIZE", "")
        share = cpus // max(1, int(ranks)) if WHOLE.fullmatch(ranks) else cpus
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


def memory_bytes(cgroups: Path = CGROUPS, own_groups: Path = OWN_GROUPS) -> int:
    """Memory of the machine, or of the tightest group around this process."""
    limits = (
        _number(folder / name)
        for folder in own_folders("memory", cgroups, own_groups)
        # Version 2 and 1; without a limit max, or almost 2^63.
        for name in ("memory.max", "memory.limit_in_bytes")
    )
    return min([psutil.virtual_memory().total, *limits])


def _num_available() -> int:
    affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1


def own_folders(controller: str, cgroups: Path, own_groups: Path) -> Iterator[Path]:
    """The folders of this process's groups, from its own up to the root of the hierarchy.

    Version 1 has a hierarchy for each controller, version 2 one for all. In a container the paths
    of the host do not exist, and the root is the container's own group.
    """
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        root = root if root.is_dir() or not controllers else cgroups / controller
        own = root / path.strip("/")
        yield from (each for each in (own, *own.parents) if each.is_relative_to(root))


def _quotas(cgroups: Path, own_groups: Path) -> Iterator[float]:
    """The quota of every group around this process that has one, in CPUs."""
    for folder in own_folders("cpu", cgroups, own_groups):
        quota, period = _version_2(folder) or _version_1(folder) or ("max", "1")
        # Version 2 writes max, and version 1 -1, for none.
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)


def _version_2(folder: Path) -> tuple[str, str] | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return quota, period


def _version_1(folder: Path) -> tuple[str, str] | None:
    try:
        quota = (folder / "cpu.cfs_quota_us").read_text().strip()
        return quota, (folder / "cpu.cfs_period_us").read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int:
    try:
        text = path.read_text().strip()
    except OSError:
        return sys.maxsize
    return int(text) if text.isdecimal() else sys.maxsize
