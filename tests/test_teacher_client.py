"""The client against real gRPC servers in this process, whose teachers do what a test wants."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest

from protos import codec, teacher_pb2, teacher_pb2_grpc
from protos.codec import TargetRows, WireError
from trainer.config import DistillConfig, TeachersConfig
from trainer.conkd import TeacherTargets
from trainer.data.examples import Example
from trainer.errors import TeacherUnavailable
from trainer.teacher_client import TeacherClient

VOCAB, GRAPH = 12, "graph-a"
CONFIG = DistillConfig(values="float32")


@dataclass(frozen=True)
class SmallVocabulary:
    digest: str = "vocabulary-a"
    size: int = VOCAB
    num_items: int = VOCAB
    first_item_id: int = 0


@dataclass
class FakeTeacher(teacher_pb2_grpc.TeacherServicer):
    """Answers row r with one entry, id r, and counts the streams that are open."""

    kind: str
    graph_digest: str = GRAPH
    garbage: bool = False
    silent: bool = False
    num_words: int = 0
    longest: int = 64
    replica_id: str = ""
    weights_digest: str = ""
    kept_mass: float = 1.0
    failures: int = 0
    """So many requests from now on fail inside."""
    streams: int = 0
    most_streams: int = 0
    requests: int = 0
    asked: list[teacher_pb2.ScoreRequest] = field(default_factory=list)

    async def Describe(self, request: Any, context: Any) -> teacher_pb2.Description:
        return teacher_pb2.Description(
            kind=self.kind,
            replica_id=self.replica_id,
            max_tokens=self.longest if self.kind == "dialogue" else 0,
            max_entities=self.longest if self.kind == "recommendation" else 0,
            num_words=self.num_words,
            max_words=2 if self.num_words else 0,
            vocab_size=VOCAB,
            vocabulary_digest="vocabulary-a",
            graph_digest=self.graph_digest if self.kind == "recommendation" else "",
            weights_digest=self.weights_digest or f"weights-{self.kind}",
            temperature=1.0,
        )

    async def Score(
        self, requests: AsyncIterator[teacher_pb2.ScoreRequest], context: Any
    ) -> AsyncIterator[teacher_pb2.ScoreReply]:
        self.streams += 1
        self.most_streams = max(self.most_streams, self.streams)
        try:
            async for request in requests:
                self.requests += 1
                self.asked.append(request)
                if self.silent:
                    continue
                if self.failures:
                    self.failures -= 1
                    code = teacher_pb2.ScoreError.INTERNAL
                    error = teacher_pb2.ScoreError(code=code, message="out of memory")
                    yield teacher_pb2.ScoreReply(request_id=request.request_id, error=error)
                    continue
                num_rows = int(np.frombuffer(request.target_lengths, "<i4").sum())
                block = (
                    b"garbage"
                    if self.garbage
                    else codec.encode(rows(num_rows, self.kept_mass), request.compression.values)
                )
                yield teacher_pb2.ScoreReply(request_id=request.request_id, block=block)
        finally:
            self.streams -= 1


def rows(num_rows: int, kept_mass: float = 1.0) -> TargetRows:
    return TargetRows(
        counts_R=np.ones(num_rows, np.int32),
        ids_E=np.arange(num_rows, dtype=np.int32),
        log_probs_E=np.full(num_rows, np.log(kept_mass), np.float32),
        tail_R=np.full(num_rows, 1.0 - kept_mass, np.float32),
        item_mass_R=np.ones(num_rows, np.float32),
        vocab_size=VOCAB,
    )


@dataclass
class FakeDirectory(teacher_pb2_grpc.DirectoryServicer):
    fleet: dict[str, teacher_pb2.Endpoint] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    told: int = 0
    watchers: int = 0
    asleep: dict[str, teacher_pb2.Endpoint] = field(default_factory=dict)
    """Kinds that were scaled to zero: listed as soon as somebody wants them."""

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[teacher_pb2.Fleet]:
        self.watchers += 1
        try:
            while True:
                self.changed.clear()
                yield teacher_pb2.Fleet(endpoints=self.fleet.values())
                self.told += 1
                await self.changed.wait()
        finally:
            self.watchers -= 1

    async def Want(self, request: Any, context: Any) -> teacher_pb2.WantReply:
        for kind in request.kinds:
            if kind in self.asleep:
                self.fleet[kind] = self.asleep.pop(kind)
                self.changed.set()
        return teacher_pb2.WantReply()


class World:
    """A Directory and teachers on an event loop in a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers: dict[str, grpc.aio.Server] = {}
        self.directory = FakeDirectory()
        self.address = self.run(self._serve("directory", self.directory))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _serve(self, name: str, servicer: Any) -> str:
        server = self._servers[name] = grpc.aio.server()
        if isinstance(servicer, FakeDirectory):
            teacher_pb2_grpc.add_DirectoryServicer_to_server(servicer, server)
        else:
            teacher_pb2_grpc.add_TeacherServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return f"127.0.0.1:{port}"

    def add(self, name: str, teacher: FakeTeacher) -> FakeTeacher:
        teacher.replica_id = name
        address = self.run(self._serve(name, teacher))
        endpoint = teacher_pb2.Endpoint(kind=teacher.kind, address=address, replica_id=name)
        self.list_(name, endpoint)
        return teacher

    def list_(self, name: str, endpoint: teacher_pb2.Endpoint | None) -> None:
        """List or delist a replica and wait until every watcher was told."""

        async def change() -> None:
            told = self.directory.told
            if endpoint is None:
                del self.directory.fleet[name]
            else:
                self.directory.fleet[name] = endpoint
            self.directory.changed.set()
            while self.directory.watchers and self.directory.told == told:
                await asyncio.sleep(0.01)

        self.run(change())

    def kill(self, name: str) -> None:
        self.run(self._servers.pop(name).stop(None))

    def client(self, distill: DistillConfig | None = None, **settings: float) -> TeacherClient:
        config = TeachersConfig(directory=self.address, **settings)  # type: ignore[arg-type]
        vocabulary: Any = SmallVocabulary()
        return TeacherClient(config, distill or CONFIG, vocabulary=vocabulary, graph_digest=GRAPH)

    def close(self) -> None:
        for name in list(self._servers):
            self.kill(name)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def examples(*response_lengths: int) -> list[Example]:
    return [
        Example(
            example_id=str(index),
            context_ids=np.array([1, 2], np.int32),
            response_ids=np.arange(length, dtype=np.int32),
            context_entities=np.array([3], np.int32),
            context_words=np.empty(0, np.int32),
            gold_items=np.empty(0, np.int32),
        )
        for index, length in enumerate(response_lengths)
    ]


def test_client_returns_the_rows_asked_for_in_order_of_submission(world: World) -> None:
    world.add("d", FakeTeacher("dialogue"))
    world.add("r", FakeTeacher("recommendation"))
    client = world.client()
    try:
        pending = [client.submit(examples(*lengths)) for lengths in ([2, 3], [4], [1, 1, 1])]
        received = [each.result() for each in pending]
    finally:
        client.close()
    assert [each.dialogue.num_rows for each in received] == [5, 4, 3]
    assert [each.recommendation.num_rows for each in received] == [2, 1, 3]
    assert (client.counters.requests, client.counters.positions) == (6, 12)


def test_client_outlives_failures_of_its_only_replica(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.dispatch.RETRY_S", 0.05)
    world.add("d", FakeTeacher("dialogue", failures=3))
    world.add("r", FakeTeacher("recommendation"))
    client = world.client()
    try:
        assert client.submit(examples(2, 3)).result().dialogue.ids_E.tolist() == [0, 1, 2, 3, 4]
    finally:
        client.close()
    assert client.counters.resends == 3


def test_client_question_that_is_too_large_comes_back_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.teacher_client.MAX_REPLY_ENTRIES", 5 * VOCAB)
    teachers = [world.add(kind[0], FakeTeacher(kind)) for kind in ("dialogue", "recommendation")]
    client = world.client()
    try:
        received = client.submit(examples(2, 3, 4, 1, 1, 1)).result()
    finally:
        client.close()
    # Five rows at a time: 2 + 3, 4 + 1 and 1 + 1 of dialogue, one an example of recommendation.
    assert [teacher.requests for teacher in teachers] == [3, 2]
    assert received.dialogue.ids_E.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert received.recommendation.num_rows == 6


@pytest.mark.parametrize(
    ("fixed_lambda", "kind", "rows"), [(0.0, "dialogue", [5, 0]), (1.0, "recommendation", [0, 2])]
)
def test_client_with_one_teacher_needs_no_other(
    world: World, fixed_lambda: float, kind: str, rows: list[int]
) -> None:
    world.add(kind[0], FakeTeacher(kind))
    distill = DistillConfig(gate="fixed", fixed_lambda=fixed_lambda)
    client = world.client(distill=distill)
    try:
        received = client.submit(examples(2, 3)).result()
    finally:
        client.close()
    assert [received.dialogue.num_rows, received.recommendation.num_rows] == rows
    assert list(client.identity) == [kind]
    assert (client.max_tokens is None) == (kind == "recommendation")


def test_client_prepares_answers_beside_the_training_thread(world: World) -> None:
    world.add("d", FakeTeacher("dialogue"))
    world.add("r", FakeTeacher("recommendation"))
    client = world.client()
    prepared_by: list[str] = []

    def prepare(targets: TeacherTargets) -> int:
        prepared_by.append(threading.current_thread().name)
        if targets.dialogue.num_rows == 4:
            raise ValueError("four rows are refused")
        return targets.dialogue.num_rows

    try:
        pending = [client.submit(examples(length)).then(prepare) for length in (3, 4, 5)]
        wait_for(lambda: len(prepared_by) == 3)  # before any of them is asked for
        assert pending[0].result() == 3
        with pytest.raises(ValueError, match="four rows are refused"):
            pending[1].result()
        assert pending[2].result() == 5
    finally:
        client.close()
    assert threading.current_thread().name not in prepared_by


def test_client_asks_no_further_ahead_than_its_bytes_allow(world: World) -> None:
    teacher = world.add("d", FakeTeacher("dialogue"))
    other = world.add("r", FakeTeacher("recommendation"))
    client = world.client(max_bytes=1)
    try:
        pending = [client.submit(examples(2)) for _ in range(3)]
        for number, each in enumerate(pending, start=1):
            wait_for(lambda number=number: teacher.requests == other.requests == number)
            assert each.result().dialogue.num_rows == 2
    finally:
        client.close()
    assert teacher.requests == 3


def test_client_closes_while_batches_wait_for_room_that_nobody_makes(world: World) -> None:
    teacher = world.add("d", FakeTeacher("dialogue"))
    world.add("r", FakeTeacher("recommendation"))
    client = world.client(max_bytes=1)
    pending = [client.submit(examples(2)).then(lambda targets: targets) for _ in range(3)]
    wait_for(lambda: teacher.requests == 1)
    client.close()
    for each in pending[1:]:
        with pytest.raises((concurrent.futures.CancelledError, TeacherUnavailable)):
            each.result()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_client_work_of_a_killed_replica_goes_to_the_other(world: World) -> None:
    world.add("r", FakeTeacher("recommendation"))
    silent = world.add("silent", FakeTeacher("dialogue", silent=True))
    client = world.client()
    try:
        pending = [client.submit(examples(2)) for _ in range(4)]
        wait_for(lambda: silent.requests == 4)
        world.add("spare", FakeTeacher("dialogue"))
        world.kill("silent")
        world.list_("silent", None)
        assert [each.result().dialogue.num_rows for each in pending] == [2] * 4
    finally:
        client.close()
    assert silent.requests == client.counters.resends == 4


def test_client_stalled_replica_loses_its_work_after_the_deadline(world: World) -> None:
    world.add("r", FakeTeacher("recommendation"))
    world.add("silent", FakeTeacher("dialogue", silent=True))
    world.add("good", FakeTeacher("dialogue"))
    client = world.client(deadline_s=0.2)
    try:
        pending = [client.submit(examples(2)) for _ in range(6)]
        assert [each.result().dialogue.num_rows for each in pending] == [2] * 6
    finally:
        client.close()


def test_client_holds_one_stream_to_a_replica_that_is_delisted_and_listed_again(
    world: World,
) -> None:
    world.add("r", FakeTeacher("recommendation"))
    teacher = world.add("d", FakeTeacher("dialogue"))
    client = world.client()
    try:
        endpoint = world.directory.fleet["d"]
        for _ in range(5):
            world.list_("d", None)
            world.list_("d", endpoint)
        assert client.submit(examples(3)).result().dialogue.num_rows == 3
    finally:
        client.close()
    assert teacher.most_streams == 1


def test_client_garbage_from_everyone_stops_the_run(world: World) -> None:
    world.add("r", FakeTeacher("recommendation"))
    world.add("d", FakeTeacher("dialogue", garbage=True))
    client = world.client()
    try:
        with pytest.raises(WireError, match="answered badly, and so was the answer before"):
            client.submit(examples(3)).result()
    finally:
        client.close()


def test_client_teacher_of_another_graph_is_refused_with_both_digests(world: World) -> None:
    world.add("d", FakeTeacher("dialogue"))
    world.add("r", FakeTeacher("recommendation", graph_digest="graph-b"))
    with pytest.raises(ValueError, match=r"student's graph graph-a, got graph-b"):
        world.client()


@pytest.mark.parametrize(
    ("kind", "column"), [("dialogue", "tokens"), ("recommendation", "entities")]
)
def test_client_teacher_that_takes_nothing_it_needs_is_refused(
    world: World, kind: str, column: str
) -> None:
    # As a teacher of another version of the contract would describe itself.
    world.add("d", FakeTeacher("dialogue", longest=0 if kind == "dialogue" else 64))
    world.add("r", FakeTeacher("recommendation", longest=0 if kind == "recommendation" else 64))
    with pytest.raises(ValueError, match=f"the {kind} teacher .* must take {column}, got a limit"):
        world.client()


def test_client_without_a_kind_runs_out_of_patience(world: World) -> None:
    world.add("d", FakeTeacher("dialogue"))
    with pytest.raises(TeacherUnavailable, match="no recommendation teacher answered for 5 s"):
        world.client(patience_s=5.0)


def test_client_wakes_a_kind_that_was_scaled_to_zero_whenever_it_asks(world: World) -> None:
    world.add("recommendation", FakeTeacher("recommendation"))
    sleeper = world.add("dialogue", FakeTeacher("dialogue"))
    endpoint = world.directory.fleet["dialogue"]
    world.list_("dialogue", None)
    world.directory.asleep["dialogue"] = endpoint
    client = world.client()
    try:
        assert client.submit(examples(2)).result().dialogue.num_rows == 2
        world.list_("dialogue", None)
        world.directory.asleep["dialogue"] = endpoint
        # Nobody asks: it sleeps on, and nothing runs out of patience.
        assert client._streams.dispatcher.missing() == []
        assert client.submit(examples(3)).result().dialogue.num_rows == 3
    finally:
        client.close()
    assert (sleeper.requests, client.counters.resends) == (2, 0)


def test_client_without_directory_says_where_it_looked(world: World) -> None:
    world.kill("directory")
    with pytest.raises(TeacherUnavailable, match=f"no Directory answers at {world.address}"):
        world.client(connect_s=0.5)


def test_client_does_not_take_another_replica_on_the_port_of_a_dead_one_for_it(
    world: World,
) -> None:
    world.add("r", FakeTeacher("recommendation"))
    other = world.add("d", FakeTeacher("dialogue"))
    other.replica_id = "born later on the same port"
    with pytest.raises(TeacherUnavailable, match="born later on the same port answers there"):
        world.client(patience_s=5.0)
    assert other.streams == 0


def test_client_knows_the_longest_inputs_of_its_teachers(world: World) -> None:
    world.add("d", FakeTeacher("dialogue"))
    world.add("r", FakeTeacher("recommendation"))
    client = world.client()
    try:
        assert client.max_tokens == 64
        assert set(client.identity) == {"dialogue", "recommendation"}
        assert client.identity["dialogue"] == "weights-dialogue at temperature 1"
    finally:
        client.close()


@pytest.mark.parametrize(("num_words", "ids", "lengths"), [(9, [7, 8], [2]), (0, [], [])])
def test_client_sends_the_last_words_to_a_teacher_that_takes_them(
    world: World, num_words: int, ids: list[int], lengths: list[int]
) -> None:
    dialogue = world.add("d", FakeTeacher("dialogue"))
    teacher = world.add("r", FakeTeacher("recommendation", num_words=num_words))
    (example,) = examples(2)
    example = dataclasses.replace(example, context_words=np.array([6, 7, 8], np.int32))
    client = world.client()
    try:
        client.submit([example]).result()
    finally:
        client.close()
    assert np.frombuffer(teacher.asked[0].word_ids, "<i4").tolist() == ids
    assert np.frombuffer(teacher.asked[0].word_lengths, "<i4").tolist() == lengths
    assert dialogue.asked[0].word_lengths == b""
