"""A Directory and teachers on this machine, for clients."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from protos import codec, teacher_pb2, teacher_pb2_grpc
from protos.codec import TargetRows
from protos.target_rows import ITEM_MASS, Targets
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.data.examples import Example
from trainer.data.model_input import RANGES
from trainer.teacher_client.client import TeacherClient
from trainer.teacher_client.subset import Caller

VOCAB, GRAPH = 12, "graph-a"


CONFIG = DistillConfig(values="float32")


@dataclass(frozen=True)
class SmallVocabulary:
    digest: str = "vocabulary-a"
    size: int = VOCAB
    num_items: int = VOCAB
    first_item_id: int = 0
    catalogue_digest: str = "catalogue-a"
    text_digest: str = "text-a"


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
    dtype: str = "float32"
    temperature: float = 1.0
    vocabulary_digest: str = "vocabulary-a"
    wire_version: int = 1
    oldest_wire_version: int = 0
    refusal: grpc.StatusCode | None = None
    """What its streams end with, at once, whatever it says of itself."""
    kept_mass: float = 1.0
    item_masses: tuple[float, ...] = (1.0,)
    """Of a request's rows, again from the first after the last; .9 to 1 fits the entries."""
    temperatures: tuple[float, float] = (0.0, 0.0)
    """The range that its Description gives."""
    capabilities: tuple[str, ...] = ()
    masses: tuple[str, ...] = (ITEM_MASS,)
    failures: int = 0
    """So many requests from now on fail inside."""
    versions: list[str] = field(default_factory=list)
    """Wire versions of its streams."""
    describes: int = 0
    streams: int = 0
    most_streams: int = 0
    requests: int = 0
    asked: list[teacher_pb2.ScoreRequest] = field(default_factory=list)

    async def Describe(self, request: Any, context: Any) -> teacher_pb2.Description:
        self.describes += 1
        return teacher_pb2.Description(
            kind=self.kind,
            replica_id=self.replica_id,
            wire_version=self.wire_version,
            oldest_wire_version=self.oldest_wire_version,
            max_tokens=self.longest if self.kind == "dialogue" else 0,
            max_entities=self.longest if self.kind == "recommendation" else 0,
            num_words=self.num_words,
            max_words=2 if self.num_words else 0,
            vocab_size=VOCAB,
            vocabulary_digest=self.vocabulary_digest,
            graph_digest=self.graph_digest if self.kind == "recommendation" else "",
            weights_digest=self.weights_digest or f"weights-{self.kind}",
            temperature=self.temperature,
            min_temperature=self.temperatures[0],
            max_temperature=self.temperatures[1],
            capabilities=self.capabilities,
            masses=self.masses,
            dtype=self.dtype,
        )

    async def Score(
        self, requests: AsyncIterator[teacher_pb2.ScoreRequest], context: Any
    ) -> AsyncIterator[teacher_pb2.ScoreReply]:
        self.streams += 1
        self.most_streams = max(self.most_streams, self.streams)
        self.versions.append(dict(context.invocation_metadata())["conkd-wire-version"])
        try:
            if self.refusal is not None:
                await context.abort(self.refusal, "conkd-wire-version must be 7, got 1.")
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
                most_ranges = np.frombuffer(request.range_counts, "<i4").max()
                if most_ranges > 1 and RANGES not in self.capabilities:
                    code = teacher_pb2.ScoreError.INVALID_ARGUMENT
                    error = teacher_pb2.ScoreError(code=code, message="takes no ranges")
                    yield teacher_pb2.ScoreReply(request_id=request.request_id, error=error)
                    continue
                num_rows = int(np.frombuffer(request.range_lengths, "<i4").sum())
                block = (
                    b"garbage"
                    if self.garbage
                    else codec.encode(self._rows(num_rows), request.compression.values)
                )
                yield teacher_pb2.ScoreReply(request_id=request.request_id, block=block)
        finally:
            self.streams -= 1

    def _rows(self, num_rows: int) -> TargetRows:
        mass_R = np.resize(np.array(self.item_masses, np.float32), num_rows)
        return dataclasses.replace(rows(num_rows, self.kept_mass), masses={ITEM_MASS: mass_R})


def rows(num_rows: int, kept_mass: float = 1.0) -> TargetRows:
    return TargetRows(
        counts_R=np.ones(num_rows, np.int32),
        ids_E=np.arange(num_rows, dtype=np.int32),
        log_probs_E=np.full(num_rows, np.log(kept_mass), np.float32),
        tail_R=np.full(num_rows, 1.0 - kept_mass, np.float32),
        masses={ITEM_MASS: np.ones(num_rows, np.float32)},
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

    def add(self, name: str, teacher: FakeTeacher, *, weights_digest: str = "") -> FakeTeacher:
        """Serve and list a teacher; `weights_digest` is what its lease says."""
        teacher.replica_id = name
        address = self.run(self._serve(name, teacher))
        endpoint = teacher_pb2.Endpoint(
            kind=teacher.kind, address=address, replica_id=name, weights_digest=weights_digest
        )
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

    def client(
        self,
        distill: DistillConfig | None = None,
        settled: Mapping[str, str] | None = None,
        caller: Caller | None = None,
        **settings: float,
    ) -> TeacherClient:
        config = TeachersConfig(directory=self.address, **settings)  # type: ignore[arg-type]
        vocabulary: Any = SmallVocabulary()
        return TeacherClient(
            config,
            distill or CONFIG,
            vocabulary=vocabulary,
            graph_digest=GRAPH,
            settled=settled,
            caller=caller,
        )

    def close(self) -> None:
        for name in list(self._servers):
            self.kill(name)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def dialogue_of_two() -> list[Example]:
    """Two responses of one dialogue: the later context begins with the earlier one's input."""
    first, second = examples(2, 3)
    later = np.array([*first.context_ids, *first.response_ids, 7], np.int32)
    return [first, dataclasses.replace(second, context_ids=later)]


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


def client_of(
    world: World,
    folder: Path,
    distill: DistillConfig = CONFIG,
    settled: Mapping[str, str] | None = None,
    **settings: Any,
) -> TeacherClient:
    config = TeachersConfig(directory=world.address, cache=str(folder), **settings)
    vocabulary: Any = SmallVocabulary()
    return TeacherClient(
        config, distill, vocabulary=vocabulary, graph_digest=GRAPH, settled=settled
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ask(client: TeacherClient, *response_lengths: int) -> Targets:
    return client.submit(examples(*response_lengths)).result()
