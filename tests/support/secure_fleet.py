"""A small fleet in this process, protected as a test wants, and those who call it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from protos import codec, teacher_pb2
from protos.teacher_pb2 import Compression
from teacher_server.fleet import certificates
from teacher_server.fleet.directory_server import DirectoryServer
from teacher_server.fleet.leases import Lease
from teacher_server.replica.service import TeacherServer
from teacher_server.scoring.compress import Support, compress
from tests.support.fake_teacher import DESCRIPTION, VOCAB, FakeTeacher, described, rows_after
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.data.examples import Example
from trainer.security.credentials import SecurityFiles
from trainer.teacher_client.client import TeacherClient
from trainer.telemetry.spans import Spans

TOKEN = "0123456789abcdef" * 4

OTHER_TOKEN = "f" + TOKEN[1:]

GOOD = (("authorization", f"Bearer {TOKEN}"),)

GRAPH = "graph-a"

RECOMMENDATION = described(
    kind="recommendation",
    max_tokens=0,
    max_entities=16,
    num_entities=50,
    graph_digest=GRAPH,
    weights_digest="weights-r",
)

ITEMS = Support(
    vocab_size=VOCAB,
    first_id=DESCRIPTION.first_item_id,
    first_item_column=0,
    num_items=DESCRIPTION.num_items,
)

SERVICES = [
    *teacher_pb2.DESCRIPTOR.services_by_name.values(),
    *health_pb2.DESCRIPTOR.services_by_name.values(),
    *reflection_pb2.DESCRIPTOR.services_by_name.values(),
]

METHODS = [
    f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods
]

NO_METHODS = ["/conkd.v1.Teacher/NoSuchMethod", "/no.Such/Service"]


def write_two_sets(root: Path) -> None:
    """Two sets of certificates, "ours" and "theirs", each with a token."""
    for name, token in (("ours", TOKEN), ("theirs", OTHER_TOKEN)):
        certificates.make_certificates(root / name, days=1)
        (root / f"{name}.token").touch(0o600)
        (root / f"{name}.token").write_text(token)


class FakeRecommender(FakeTeacher):
    """One row per example, that of the token whose id is the number of entities."""

    def __init__(self) -> None:
        super().__init__(RECOMMENDATION)

    def score(self, inputs: Any, compression: Compression) -> codec.TargetRows:
        ids = torch.tensor([len(each.entities) for each in inputs])
        items = slice(DESCRIPTION.first_item_id, DESCRIPTION.first_item_id + DESCRIPTION.num_items)
        return compress(rows_after(ids)[:, items], compression, support=ITEMS)


@dataclass(frozen=True)
class SmallVocabulary:
    digest: str = DESCRIPTION.vocabulary_digest
    size: int = VOCAB
    num_items: int = DESCRIPTION.num_items
    first_item_id: int = DESCRIPTION.first_item_id
    catalogue_digest: str = "catalogue-a"
    text_digest: str = "text-a"


def files(root: Path, name: str = "ours") -> SecurityFiles:
    return SecurityFiles(tls=str(root / name), token_file=str(root / f"{name}.token"))


@dataclass(frozen=True)
class Running:
    directory: str
    dialogue: str

    @property
    def addresses(self) -> list[str]:
        return [self.directory, self.dialogue]


@contextlib.asynccontextmanager
async def fleet(security: SecurityFiles, *, spans: Spans | None = None) -> AsyncIterator[Running]:
    """A Directory that leads to one replica of each kind."""
    # Leases that nobody renews last for the test.
    directory = DirectoryServer(settle_s=0.0, lease_s=600.0, security=security)
    port = await directory.start("127.0.0.1", 0)
    servers = [
        TeacherServer(teacher, replica_id=teacher.description.kind, security=security, spans=spans)
        for teacher in (FakeTeacher(), FakeRecommender())
    ]
    addresses = [f"127.0.0.1:{await server.start('127.0.0.1')}" for server in servers]
    for kind, address in zip(("dialogue", "recommendation"), addresses, strict=True):
        await directory.service.renew(Lease(kind=kind, address=address, replica_id=kind, pid=1))
    try:
        yield Running(f"127.0.0.1:{port}", addresses[0])
    finally:
        for server in servers:
            await server.drain(0.2)
        await directory.stop(0.2)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), 60)

    asyncio.run(bounded())


def ask(
    directory: str, security: SecurityFiles, *, spans: Spans | None = None, **settings: float
) -> int:
    """A student's request to both kinds; the number of rows that came."""
    config = TeachersConfig(
        directory=directory,
        tls=security.tls,
        token_file=security.token_file,
        insecure=security.insecure,
        **settings,  # type: ignore[arg-type]
    )
    vocabulary: Any = SmallVocabulary()
    client = TeacherClient(
        config, DistillConfig(gate="soft"), vocabulary=vocabulary, graph_digest=GRAPH, spans=spans
    )
    nothing = np.empty(0, np.int32)
    example = Example(
        example_id="0",
        context_ids=np.array([1, 2], np.int32),
        response_ids=np.arange(3, dtype=np.int32),
        context_entities=np.array([3], np.int32),
        context_words=nothing,
        gold_items=nothing,
    )
    try:
        received = client.submit([example]).result()
    finally:
        client.close()
    return sum(rows.num_rows for rows in received.values())


async def status(
    channel: grpc.aio.Channel, method: str, metadata: tuple[tuple[str, str], ...]
) -> grpc.StatusCode:
    """How a call ends whose caller opens a stream and sends nothing."""
    # Who is let in by mistake waits for a request of ours: that is no answer either.
    call = channel.stream_stream(method)(metadata=metadata, timeout=10)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call.read()
    return await call.code()
