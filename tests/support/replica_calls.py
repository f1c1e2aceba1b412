"""Requests to one replica, and the replica itself on a port of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np

from protos import codec, teacher_pb2, teacher_pb2_grpc
from protos.handshake import handshake_metadata
from teacher_server.replica.request_check import RequestCheck, RequestLimits
from teacher_server.replica.service import TeacherServer
from teacher_server.scoring.device_batches import BatchLimits
from teacher_server.scoring.score_work import ScoreWork
from tests.support.fake_teacher import FakeTeacher
from trainer.telemetry.spans import Spans

METADATA = handshake_metadata(teacher_pb2.Description(vocabulary_digest="vocabulary-a"))


INVALID = teacher_pb2.ScoreError.INVALID_ARGUMENT


def check_request(
    one: teacher_pb2.ScoreRequest, teacher: teacher_pb2.Description, limits: RequestLimits
) -> ScoreWork:
    return RequestCheck(teacher, limits)(one)


def int32(*values: int) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


def one_range(*spans: tuple[int, int]) -> dict[str, Any]:
    """The fields of sequences with one range each: [start, start + length)."""
    return {
        "range_counts": int32(*[1] * len(spans)),
        "range_starts": int32(*(start for start, _ in spans)),
        "range_lengths": int32(*(length for _, length in spans)),
    }


def request(
    request_id: int,
    *,
    top_k: int = 0,
    values: int = codec.FLOAT32,
    fields: dict[str, bytes] | None = None,
) -> teacher_pb2.ScoreRequest:
    content: dict[str, Any] = {
        "token_ids": int32(1, 2, 3, 4, 5),
        "token_lengths": int32(2, 3),
        **one_range((1, 1), (1, 2)),
    }
    content |= fields or {}
    return teacher_pb2.ScoreRequest(
        request_id=request_id,
        compression=teacher_pb2.Compression(top_k=top_k, values=values),  # type: ignore[arg-type]
        temperature=1.0,
        **content,
    )


@asynccontextmanager
async def running(
    teacher: FakeTeacher, limits: BatchLimits | None = None, *, spans: Spans | None = None
) -> AsyncIterator[tuple[TeacherServer, teacher_pb2_grpc.TeacherStub]]:
    server = TeacherServer(teacher, replica_id="replica-1", batch_limits=limits, spans=spans)
    port = await server.start("127.0.0.1")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield server, teacher_pb2_grpc.TeacherStub(channel)
        finally:
            await server.drain(0.2)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), 30)

    asyncio.run(bounded())


async def score(stub, requests, metadata=METADATA) -> dict[int, teacher_pb2.ScoreReply]:
    call = stub.Score(iter_async(requests), metadata=metadata)
    return {reply.request_id: reply async for reply in call}


async def iter_async(items):
    for item in items:
        yield item


async def poll(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)
