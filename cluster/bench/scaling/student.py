"""A student of the benchmark `scaling`: the real client and a real all-reduce around a sleep.

python -m cluster.bench.scaling.student --plan DIR --rank R --world N --address HOST

Its step is that of trainer/train.py: take the targets that were asked for some steps before,
compute (a sleep of measured length, as on a device that needs no core), exchange as many bytes as
the student has gradients, ask for the targets of a later step. Ranks that a cell has no use for
wait for the next one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import datetime
import itertools
import math
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from cluster.bench.scaling.fixed_batch import fixed_parts, rows_of
from cluster.bench.scaling.plan import (
    CellPlan,
    Measured,
    Plan,
    go_file,
    read_plan,
    ready_file,
    result_file,
    write_measured,
)
from cluster.capacity.network import exchanged_bytes
from protos.target_rows import Targets
from trainer.common.atomic import write_text
from trainer.common.cli import run_main
from trainer.common.errors import MachineError
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.data.examples import Example
from trainer.data.prepared import PreparedData, load_prepared
from trainer.teacher_client.client import TeacherClient

POLL_S = 0.02
# Of the exchange alone, before any cell.
REPEATS = 12
# A cell that teachers bind takes minutes, and idle ranks wait for it.
GROUP_TIMEOUT = datetime.timedelta(hours=1)


class Student:
    """One rank: its data, its groups and its gradients."""

    def __init__(self, plan: Plan, rank: int, world: int) -> None:
        """Load the data, and meet the other ranks."""
        self._plan = plan
        self.rank = rank
        settings = [f"data={plan.data}", "output=unused", *plan.settings]
        self._config = load_config(RunConfig, Path(plan.recipe), settings)
        self._data: PreparedData = load_prepared(plan.data)
        self._gradients = torch.zeros(plan.gradient_bytes // 4)
        self._group_of = _groups(plan, world)

    def run(self, cell: CellPlan) -> Measured:
        """All steps of a cell, with a client of its own: it meets the replicas of this time."""
        parts = fixed_parts(self._data, cell.batch)
        client = TeacherClient(
            self._config.teachers,
            self._config.distill,
            vocabulary=self._data.vocabulary,
            graph_digest=self._data.graphs_digest,
        )
        with contextlib.closing(client):
            return self._run(cell, client, parts)

    def _run(self, cell: CellPlan, client: TeacherClient, parts: list[list[Example]]) -> Measured:
        steps = range(-self._plan.warm_up, self._plan.steps)
        in_flight = self._config.teachers.in_flight
        ahead: collections.deque[list[Future[Targets]]] = collections.deque()
        for _ in range(in_flight):
            ahead.append([client.submit(part) for part in parts])
        meter = Meter()
        for step in steps:
            if step == 0:
                meter = Meter()
            # Also for steps after the last: teachers have as much ahead of them at the end as at
            # the beginning, else what they answered before it would count.
            ahead.append([client.submit(part) for part in parts])
            asked_s = time.perf_counter()
            for answer in ahead.popleft():
                answer.result()
            answered_s = time.perf_counter()
            time.sleep(cell.compute_s)
            computed_s = time.perf_counter()
            self._exchange(cell)
            met_s = time.perf_counter()
            meter.step(wait_s=answered_s - asked_s, exchange_s=met_s - computed_s)
        measured = meter.measured(rows=self._plan.steps * sum(map(rows_of, parts)))
        for answer in itertools.chain(*ahead):
            answer.result()
        # Every step asks the same, so of all bytes these steps have their share.
        share = self._plan.steps / (len(steps) + in_flight)
        counters = client.counters
        return dataclasses.replace(
            measured,
            teacher_bytes=round(share * (counters.wire_bytes + counters.request_bytes)),
            resends=counters.resends,
        )

    def bus_bytes_per_s(self) -> float:
        """Bytes a second of a rank in the exchange alone, the slowest of all numbers of ranks.

        As nccl-tests count it: what a ring sends over the time, so that the number matters little.
        """
        found = [math.inf]
        for size, group in self._group_of.items():
            if self.rank < size:
                sent = exchanged_bytes(0, self._plan.gradient_bytes, size)
                found.append(sent / statistics.median(self._lone_exchanges(group)))
        return min(found)

    def _lone_exchanges(self, group: Any) -> Iterator[float]:
        for _ in range(REPEATS):
            start_s = time.perf_counter()
            dist.all_reduce(self._gradients, group=group)
            yield time.perf_counter() - start_s

    def _exchange(self, cell: CellPlan) -> None:
        if cell.students > 1:
            dist.all_reduce(self._gradients, group=self._group_of[cell.students])


def _groups(plan: Plan, world: int) -> dict[int, Any]:
    """Number of students -> the group of the first so many ranks; every rank makes all of them."""
    sizes = sorted({cell.students for cell in plan.cells} - {1})
    assert all(size <= world for size in sizes)
    return {size: dist.new_group(list(range(size)), timeout=GROUP_TIMEOUT) for size in sizes}


class Meter:
    """What this host did since it was made, and the times of each step."""

    def __init__(self) -> None:
        self._network = network_bytes()
        self._cpu_s = time.process_time()
        self._times: list[tuple[float, float, float]] = []
        self._last = time.perf_counter()

    def step(self, *, wait_s: float, exchange_s: float) -> None:
        """A step is done."""
        now = time.perf_counter()
        self._times.append((now - self._last, wait_s, exchange_s))
        self._last = now

    def measured(self, *, rows: int) -> Measured:
        """All of it until now, without what the client counts."""
        sent, received = (
            now - before for now, before in zip(network_bytes(), self._network, strict=True)
        )
        step_s, wait_s, exchange_s = zip(*self._times, strict=True)
        return Measured(
            rows=rows,
            teacher_bytes=0,
            sent_bytes=sent,
            received_bytes=received,
            cpu_s=time.process_time() - self._cpu_s,
            resends=0,
            step_s=step_s,
            wait_s=wait_s,
            exchange_s=exchange_s,
        )


def network_bytes() -> tuple[int, int]:
    """Sent and received so far by all interfaces of this host but loopback."""
    counters = psutil.net_io_counters(pernic=True)
    beyond = [it for name, it in counters.items() if name != "lo"]
    return sum(it.bytes_sent for it in beyond), sum(it.bytes_recv for it in beyond)


def interface_of(address: str) -> str:
    """The interface that has an address; gloo would take the one that the host's name leads to.

    Raises:
        MachineError: if none has.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(it.address == address for it in addresses):
            return name
    raise MachineError(f"--address must be one of this host, got {address}. See: ip address")


def wait_for(path: Path) -> None:
    """Return once a file is there."""
    while not path.exists():
        time.sleep(POLL_S)


def main(argv: list[str]) -> None:
    """Parse, meet the others, run the cells that need this rank."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world", type=int, required=True)
    parser.add_argument("--address", required=True)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    folder, rank = arguments.plan, arguments.rank
    os.environ["GLOO_SOCKET_IFNAME"] = interface_of(arguments.address)
    plan = read_plan(folder)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{plan.master}",
        rank=rank,
        world_size=arguments.world,
        timeout=GROUP_TIMEOUT,
    )
    student = Student(plan, rank, arguments.world)
    write_text(ready_file(folder, rank), str(student.bus_bytes_per_s()))
    for index, cell in enumerate(plan.cells):
        wait_for(go_file(folder, index))
        if rank < cell.students:
            write_measured(result_file(folder, index, rank), student.run(cell))
    dist.destroy_process_group()


if __name__ == "__main__":
    run_main(main)
