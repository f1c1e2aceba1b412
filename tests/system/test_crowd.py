"""One replica and 2,000 clients over gRPC, each with a run, a connection and a stream to itself."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Any

import pytest

from tests.support.crowd import TURNS
from tests.support.student_runs import ROOT

PROCESSES = 4
CLIENTS = 500
# Of 2,000 connections and streams: 45 KiB each were measured.
MOST_MORE_BYTES = 2000 * (128 << 10)


@contextlib.contextmanager
def crowd(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.crowd", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def line_of(pipe: IO[str] | None) -> str:
    assert pipe is not None
    return pipe.readline().strip()


@pytest.mark.everything
def test_two_thousand_clients_of_one_replica_are_all_served_in_bounded_memory() -> None:
    with contextlib.ExitStack() as processes:
        server = processes.enter_context(crowd("serve"))
        port, before = line_of(server.stdout), json.loads(line_of(server.stdout))["rss"]
        askers = [
            processes.enter_context(crowd("ask", port, CLIENTS, at * CLIENTS))
            for at in range(PROCESSES)
        ]
        assert [line_of(asker.stdout) for asker in askers] == ["ready"] * PROCESSES
        for asker in askers:
            print("go", file=asker.stdin, flush=True)
        shown: list[dict[str, Any]] = [json.loads(line_of(asker.stdout)) for asker in askers]
        server.kill()
        assert server.stdout is not None
        levels = [json.loads(line) for line in server.stdout if line.endswith("}\n")]
    assert max(level["streams"] for level in levels) == PROCESSES * CLIENTS
    for each in shown:
        assert each["answered"] == [TURNS] * CLIENTS
        # Beside the first that has all its answers, each other has one of two, too.
        assert each["fewest_at_first_end"] >= TURNS // 2
    more = max(level["rss"] for level in levels) - before
    dialed = sum(each["dialed"] for each in shown)
    print(f"{more >> 20} MiB more, {dialed} streams for {PROCESSES * CLIENTS} clients")
    assert more < MOST_MORE_BYTES
