"""A fleet on a real Ray cluster that grows and shrinks under a client that asks all the time."""

from __future__ import annotations

import collections
import concurrent.futures
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos import codec, teacher_pb2, teacher_pb2_grpc
from tests.support.fleet_commands import replicas, run
from tests.support.served_teachers import Service
from trainer.common.errors import TeacherUnavailable
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.data.prepared import PreparedData, load_prepared
from trainer.security.channels import ChannelFactory
from trainer.security.credentials import NO_SECURITY
from trainer.teacher_client.client import TeacherClient
from trainer.teacher_client.replica import Replica, Request

AHEAD = 8
# A replica works within 5 s of being listed; a busy machine is given three times that.
WORKS_S = 15.0


@pytest.fixture
def at(service: Service) -> list[str | Path]:
    """The option that names the fleet."""
    assert service.fleet is not None
    return ["--fleet", service.fleet]


@pytest.fixture(scope="module")
def data(prepared_dir: Path) -> PreparedData:
    return load_prepared(prepared_dir)


class Watcher:
    """When each dialogue replica was listed first, and who is listed now."""

    def __init__(self, directory: str) -> None:
        self.listed_s: dict[str, float] = {}
        self._now: set[str] = set()
        self._changed = threading.Condition()
        self._channel = ChannelFactory(NO_SECURITY).blocking(directory)
        watch = teacher_pb2_grpc.DirectoryStub(self._channel).Watch(teacher_pb2.WatchRequest())
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._watch = watch
        self._pool.submit(self._follow)

    def _follow(self) -> None:
        for fleet in self._watch:
            with self._changed:
                self._now = replicas(list(fleet.endpoints), "dialogue")
                for replica_id in self._now - self.listed_s.keys():
                    self.listed_s[replica_id] = time.monotonic()
                self._changed.notify_all()

    def wait_for(self, count: int, timeout_s: float, *, gone: str = "") -> set[str]:
        """The dialogue replicas, once there are so many and `gone` is not one of them."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: len(self._now) == count and gone not in self._now, timeout_s
            )
            assert found, f"{count} replicas must be listed in {timeout_s} s, got {self._now}"
            return set(self._now)

    def close(self) -> None:
        self._watch.cancel()
        self._pool.shutdown()
        self._channel.close()


class Asker:
    """A student that asks ahead without pause, and checks what it gets and in which order."""

    def __init__(self, directory: str, data: PreparedData, patience_s: float = 120.0) -> None:
        self.client = TeacherClient(
            TeachersConfig(directory=directory, patience_s=patience_s),
            # All of each row: an answer is the same whoever gives it, beside whomever. And a gate
            # that asks both kinds about every example.
            DistillConfig(
                gate="soft",
                top_k=0,
                recommendation_top_k=0,
                recommendation_top_p=1.0,
                values="float32",
            ),
            vocabulary=data.vocabulary,
            graph_digest=data.graphs_digest,
        )
        self.first_answer_s: dict[str, float] = {}
        self._examples = data.examples("train")[:9]
        self._expected = [self.client.submit([each]).result() for each in self._examples]
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        dispatcher = self.client._dispatcher
        self._take: Callable[[Replica, int], Request | None] = dispatcher.take
        dispatcher.take = self._note  # type: ignore[method-assign]
        self._asking = self._pool.submit(self._ask)

    def _note(self, replica: Replica, request_id: int) -> Request | None:
        self.first_answer_s.setdefault(replica.replica_id, time.monotonic())
        return self._take(replica, request_id)

    def _ask(self) -> int:
        """How many requests were answered, all of them as expected."""
        pending = collections.deque()
        asked = answered = 0
        while pending or not self._stop.is_set():
            while len(pending) < AHEAD and not self._stop.is_set():
                pending.append(self.client.submit([self._examples[asked % 9]]))
                asked += 1
            targets = pending.popleft().result()
            expected = self._expected[answered % 9]
            for kind, rows in targets.items():
                check_rows(rows, expected[kind])
            answered += 1
        return answered

    def wait_for_answer_of(self, replica_id: str) -> float:
        """When it answered first; it must within WORKS_S."""
        until_s = time.monotonic() + WORKS_S
        while replica_id not in self.first_answer_s:
            assert not self._asking.done(), self._asking.result()
            assert time.monotonic() < until_s, f"{replica_id} does not work"
            time.sleep(0.05)
        return self.first_answer_s[replica_id]

    def close(self) -> int:
        self._stop.set()
        try:
            return self._asking.result(60)
        finally:
            self.client.close()
            self._pool.shutdown()


def check_rows(rows: codec.TargetRows, expected: codec.TargetRows) -> None:
    np.testing.assert_array_equal(rows.counts_R, expected.counts_R)
    np.testing.assert_array_equal(rows.ids_E, expected.ids_E)
    np.testing.assert_allclose(rows.log_probs_E, expected.log_probs_E, atol=1e-4)


def state_of(kind: str, at: list[str | Path]) -> dict[str, Any]:
    return json.loads(run("status", "--json", *at))["kinds"][kind]


def replicas_of(kind: str, at: list[str | Path]) -> list[dict[str, Any]]:
    return state_of(kind, at)["replicas"]


@pytest.mark.timeout(400)
def test_fleet_that_scales_and_loses_a_replica_under_a_student_loses_no_answer(
    at: list[str | Path], service: Service, data: PreparedData
) -> None:
    watcher, asker = Watcher(service.directory), Asker(service.directory, data)
    took_s = []

    def check_works(replica_id: str) -> None:
        took_s.append(asker.wait_for_answer_of(replica_id) - watcher.listed_s[replica_id])

    try:
        (old,) = watcher.wait_for(1, 10)
        run("scale", "dialogue=2", *at)
        (second,) = watcher.wait_for(2, 10) - {old}
        check_works(second)
        assert old in asker.first_answer_s
        (pid,) = (it["pid"] for it in replicas_of("dialogue", at) if it["replica_id"] == old)
        os.kill(pid, signal.SIGKILL)
        (third,) = watcher.wait_for(2, 90, gone=old) - {second}
        check_works(third)
        run("scale", "dialogue=1", *at)
        watcher.wait_for(1, 10)
    finally:
        watcher.close()
        answered = asker.close()
    counters = asker.client.counters
    print(f"new replicas answered after {took_s} s; {answered} answers, {counters}")
    # Each of the nine and of the others was asked of both kinds, once.
    assert counters.requests == 2 * (9 + answered)
    assert answered > 100


@pytest.mark.everything
@pytest.mark.timeout(400)
def test_fleet_that_is_autoscaled_comes_on_demand_and_goes_when_idle(
    at: list[str | Path], service: Service, data: PreparedData
) -> None:
    watcher = Watcher(service.directory)
    try:
        # Nothing is waited for longer than a millisecond, so a queue of any kind asks for more.
        pace = ["--idle-s", "6", "--target-queue-ms", "1"]
        run("scale", "dialogue=0..2", *pace, *at)
        watcher.wait_for(0, 60)
        down = state_of("dialogue", at)
        assert (down["target"], down["min"], down["max"]) == (0, 0, 2)
        assert down["autoscaling"] == {"target_queue_s": 0.001, "idle_s": 6.0}
        assert down["replicas"] == []

        started_s = time.monotonic()
        asker = Asker(service.directory, data)
        woken_s = time.monotonic() - started_s
        try:
            both = watcher.wait_for(2, 90)
            for replica_id in both:
                asker.wait_for_answer_of(replica_id)
        finally:
            answered = asker.close()
        print(f"woken in {woken_s:.1f} s; {answered} answers, {asker.client.counters}")
        watcher.wait_for(0, 90)

        run("scale", "dialogue=1", *at)
        fixed = state_of("dialogue", at)
        assert (fixed["target"], fixed["min"], fixed["max"]) == (1, 1, 1)
        assert fixed["autoscaling"] is None
        run("scale", "dialogue=0", *at)
        watcher.wait_for(0, 10)
        off = state_of("dialogue", at)
        assert (off["target"], off["min"], off["max"]) == (0, 0, 0)
        # Off is off: who wants one runs out of patience, and nobody came.
        with pytest.raises(TeacherUnavailable, match="no dialogue teacher answered for 4 s"):
            Asker(service.directory, data, patience_s=4.0)
        assert state_of("dialogue", at)["replicas"] == []
    finally:
        watcher.close()
        run("scale", "dialogue=1", *at)
