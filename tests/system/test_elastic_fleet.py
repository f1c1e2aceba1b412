"""A fleet on a real Ray cluster that grows and shrinks under a client that asks all the time."""

from __future__ import annotations

import collections
import concurrent.futures
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.launch.ports import free_port
from protos import codec, teacher_pb2, teacher_pb2_grpc
from teacher_server.fleet.local_cluster import read_state
from tests.support import tiny_teachers
from tests.support.fleet_commands import replicas, run
from trainer.common.errors import TeacherUnavailable
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.data.examples import Example
from trainer.security.channels import ChannelFactory
from trainer.security.credentials import NO_SECURITY
from trainer.teacher_client.client import TeacherClient
from trainer.teacher_client.replica import Replica, Request

AHEAD = 8
# A replica works within 5 s of being listed; a busy machine is given three times that.
WORKS_S = 15.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[list[str | Path]]:
    """The option that names a fleet of one replica of each kind."""
    vocabulary = tiny_teachers.tiny_vocabulary()
    tiny_teachers.write_dialogue_teacher(tmp_path / "dialogue", vocabulary)
    tiny_teachers.write_recommendation_teacher(tmp_path / "recommendation", vocabulary)
    at: list[str | Path] = ["--fleet", tmp_path / "fleet.json"]
    pair = [f"--{kind}={tmp_path / kind}" for kind in ("dialogue", "recommendation")]
    run("up", *pair, "--port", str(free_port()), *at)
    yield at
    run("down", *at)


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

    def wait_for(self, count: int, timeout_s: float) -> set[str]:
        """The dialogue replicas, once there are so many."""
        with self._changed:
            found = self._changed.wait_for(lambda: len(self._now) == count, timeout_s)
            assert found, f"{count} replicas must be listed in {timeout_s} s, got {self._now}"
            return set(self._now)

    def close(self) -> None:
        self._watch.cancel()
        self._pool.shutdown()
        self._channel.close()


def example(index: int) -> Example:
    """One of nine, each with its own length and ids."""
    length = 2 + index % 9
    ids = np.arange(3 + index % 9, 3 + index % 9 + length, dtype=np.int32)
    return Example(
        example_id=str(index),
        context_ids=ids,
        response_ids=ids,
        context_entities=ids,
        context_words=ids[:1] % tiny_teachers.NUM_WORDS,
        gold_items=ids[:0],
    )


class Asker:
    """A student that asks ahead without pause, and checks what it gets and in which order."""

    def __init__(self, directory: str, patience_s: float = 120.0) -> None:
        self.client = TeacherClient(
            TeachersConfig(directory=directory, patience_s=patience_s),
            # Whole numbers on the wire: an answer is the same whoever gives it, beside whomever.
            DistillConfig(values="float32"),
            vocabulary=tiny_teachers.tiny_vocabulary(),
            graph_digest="tiny-graph",
        )
        self.first_answer_s: dict[str, float] = {}
        self._expected = [self.client.submit([example(i)]).result() for i in range(9)]
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
        """How many questions were answered, all of them as expected."""
        pending = collections.deque()
        asked = answered = 0
        while pending or not self._stop.is_set():
            while len(pending) < AHEAD and not self._stop.is_set():
                pending.append(self.client.submit([example(asked)]))
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


def state_of(kind: str, at: list[str | Path]) -> dict[str, object]:
    return json.loads(run("status", "--json", *at))["kinds"][kind]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_fleet_that_scales_under_a_student_loses_nothing_and_puts_the_new_to_work(
    fleet: list[str | Path],
) -> None:
    directory = read_state(Path(fleet[1])).directory
    watcher, asker = Watcher(directory), Asker(directory)
    took_s = []
    try:
        (old,) = watcher.wait_for(1, 10)
        for count in (2, 1, 2):
            before = set(watcher.listed_s)
            run("scale", f"dialogue={count}", *fleet)
            new = watcher.wait_for(count, 10) - before
            for replica_id in new:
                took_s.append(asker.wait_for_answer_of(replica_id) - watcher.listed_s[replica_id])
        assert old in asker.first_answer_s
    finally:
        watcher.close()
        answered = asker.close()
    counters = asker.client.counters
    print(f"new replicas answered after {took_s} s; {answered} answers, {counters}")
    assert len(took_s) == 2
    # Each of the nine and of the others was asked of both kinds, once.
    assert counters.requests == 2 * (9 + answered)
    assert answered > 100


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_fleet_that_is_autoscaled_comes_on_demand_and_goes_when_idle(
    fleet: list[str | Path],
) -> None:
    directory = read_state(Path(fleet[1])).directory
    watcher = Watcher(directory)
    try:
        # Nothing is waited for longer than a millisecond, so a queue of any kind asks for more.
        pace = ["--idle-s", "6", "--target-queue-ms", "1"]
        run("scale", "dialogue=0..2", *pace, *fleet)
        watcher.wait_for(0, 60)
        down = state_of("dialogue", fleet)
        assert (down["target"], down["min"], down["max"]) == (0, 0, 2)
        assert down["autoscaling"] == {"target_queue_s": 0.001, "idle_s": 6.0}
        assert down["replicas"] == []

        started_s = time.monotonic()
        asker = Asker(directory)
        woken_s = time.monotonic() - started_s
        try:
            both = watcher.wait_for(2, 90)
            for replica_id in both:
                asker.wait_for_answer_of(replica_id)
        finally:
            answered = asker.close()
        print(f"woken in {woken_s:.1f} s; {answered} answers, {asker.client.counters}")
        watcher.wait_for(0, 90)

        run("scale", "dialogue=1", *fleet)
        fixed = state_of("dialogue", fleet)
        assert (fixed["target"], fixed["min"], fixed["max"]) == (1, 1, 1)
        assert fixed["autoscaling"] is None
        run("scale", "dialogue=0", *fleet)
        watcher.wait_for(0, 10)
        off = state_of("dialogue", fleet)
        assert (off["target"], off["min"], off["max"]) == (0, 0, 0)
        # Off is off: who wants one runs out of patience, and nobody came.
        with pytest.raises(TeacherUnavailable, match="no dialogue teacher answered for 4 s"):
            Asker(directory, patience_s=4.0)
        assert state_of("dialogue", fleet)["replicas"] == []
    finally:
        watcher.close()
