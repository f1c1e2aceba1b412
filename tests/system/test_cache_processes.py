"""What several processes may do to one cache folder, and a kill in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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
