"""What several processes may do to one cache folder, and a kill in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.caches import GROUP, MAX_BYTES
from tests.support.student_runs import ROOT
from trainer.target_cache.store import TargetCache


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


WRITER = """
import sys
from pathlib import Path
from tests.support.caches import GROUP, MAX_BYTES
from tests.support.student_runs import ROOT
from trainer.target_cache.store import TargetCache

folder, name = sys.argv[1:]
cache = TargetCache(Path(folder), max_bytes=MAX_BYTES)
print("ready", flush=True)
sys.stdin.readline()
lost = 0
for number in range(200):
    values = {number.to_bytes(40, "big"): f"{name} {number}".encode() * 50}
    lost += len(cache.put(GROUP, values, {}))
print(lost)
"""


def test_cache_written_by_two_processes_at_once_has_one_value_per_key(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    writers = [run_python(WRITER, str(folder), name) for name in ("a", "b")]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    results = [writer.communicate("go\n", timeout=60)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    # Every key was written by one and found by the other.
    assert sum(map(int, results)) == 200
    cache = TargetCache(folder, max_bytes=MAX_BYTES)
    with cache.snapshot() as now:
        found = dict(now.entries)
    assert len(found) == 200
    for number in range(200):
        wanted = [f"{name} {number}".encode() * 50 for name in ("a", "b")]
        assert found[number.to_bytes(40, "big")] in wanted
    cache.close()


KILLED = """
import sys
from pathlib import Path
from tests.support.caches import GROUP, MAX_BYTES
from tests.support.student_runs import ROOT
from trainer.target_cache.store import TargetCache

cache = TargetCache(Path(sys.argv[1]), max_bytes=MAX_BYTES)
cache.put(GROUP, {b"whole": b"1"}, {})
# As put() does it, stopped in the middle: with a reader's slot held and a transaction open.
reader = cache._env.begin()
writer = cache._env.begin(write=True)
writer.put(b"torn", b"2" * 5000, db=cache._targets)
print("in the middle", flush=True)
sys.stdin.readline()
"""


def test_cache_of_a_writer_killed_in_a_transaction_can_be_read_and_written(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    writer = run_python(KILLED, str(folder))
    assert writer.stdout is not None
    assert writer.stdout.readline() == "in the middle\n"
    os.kill(writer.pid, signal.SIGKILL)
    assert writer.wait(20) == -signal.SIGKILL
    cache = TargetCache(folder, max_bytes=MAX_BYTES)
    assert cache._env.readers().strip() in ("", "(no active readers)")
    assert cache.get([b"whole", b"torn"]) == [b"1", None]
    assert cache.put(GROUP, {b"torn": b"3"}, {}) == {}
    assert cache.get([b"torn"]) == [b"3"]
    cache.close()


CONTAINED = """
import os, sys
from pathlib import Path
from tests.support.caches import GROUP, MAX_BYTES
from trainer.target_cache.store import TargetCache

folder, name = sys.argv[1:]
try:
    cache = TargetCache(Path(folder), max_bytes=MAX_BYTES)
except OSError as error:
    print(f"refused: {error}")
    sys.exit()
cache.put(GROUP, {name.encode(): b"1"}, {})
print(f"{os.getpid()} found {sum(it is not None for it in cache.get([b'a', b'b']))}", flush=True)
sys.stdin.readline()
print(cache.is_full)
"""
UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc")


def run_contained(*arguments: str, pid: int) -> subprocess.Popen[str]:
    """In a PID namespace of its own, under this process id."""
    # The shell is 1; every command before ours takes a number.
    script = f'{"/bin/true; " * (pid - 2)}"$@"; exit $?'
    return subprocess.Popen(
        [*UNSHARE, "bash", "-c", script, "bash", sys.executable, "-c", CONTAINED, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.everything
def test_containers_share_a_cache_unless_two_processes_have_one_id(tmp_path: Path) -> None:
    if subprocess.run([*UNSHARE, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to make PID namespaces")
    folder = str(tmp_path / "cache")
    first = run_contained(folder, "a", pid=3)
    assert line_of(first) == "3 found 1\n"
    other, same = (run_contained(folder, "b", pid=pid) for pid in (5, 3))
    assert line_of(other) == "5 found 2\n"
    assert "refused:" in (refused := line_of(same))
    assert "--pid=host" in refused
    for process in (first, other, same):
        assert process.communicate("go\n", timeout=60)[0] in ("False\n", "")
        assert process.returncode == 0
