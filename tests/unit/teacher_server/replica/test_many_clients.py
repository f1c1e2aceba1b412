"""Two thousand clients of one replica, over real connections."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import psutil
import pytest

from protos import teacher_pb2_grpc
from teacher_server.replica.score_stream import MAX_REPLY_BYTES
from teacher_server.replica.service import TeacherServer
from tests.support.fake_teacher import FakeTeacher
from tests.support.replica_calls import METADATA, request

CLIENTS, CHANNELS, REQUESTS = 2000, 10, 5
# Both ends of all streams live in this process.
MAX_GROWTH_BYTES = 1 << 30


@pytest.mark.everything
def test_two_thousand_clients_of_one_replica_are_all_answered_in_bounded_memory() -> None:
    asyncio.run(asyncio.wait_for(_serve_all(), 240))


async def _serve_all() -> None:
    server = TeacherServer(FakeTeacher(), replica_id="replica-1")
    port = await server.start("127.0.0.1")
    channels = [
        # A connection of its own: equal ones would be shared.
        grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        for _ in range(CHANNELS)
    ]
    answered, all_have_one = [0] * CLIENTS, asyncio.Event()
    process = psutil.Process()
    before = process.memory_info().rss
    levels = asyncio.create_task(_watch(server))
    try:
        await asyncio.gather(
            *(
                _ask(channels[number % CHANNELS], number, answered, all_have_one)
                for number in range(CLIENTS)
            )
        )
        growth = process.memory_info().rss - before
        assert answered == [REQUESTS] * CLIENTS
        assert growth < MAX_GROWTH_BYTES
        runs = server.batcher.runs.now()
        assert sum(it.requests for it in runs.values()) == CLIENTS * REQUESTS
        assert len(runs) <= 66
        most_held, most_waiting, most_streams = await _last(levels)
        assert most_held <= MAX_REPLY_BYTES
        assert most_waiting <= server.batcher.limits.max_queue_bytes
        assert most_streams == CLIENTS
    finally:
        levels.cancel()
        await asyncio.gather(*(channel.close() for channel in channels))
        await server.drain(1.0)


async def _ask(
    channel: grpc.aio.Channel, number: int, answered: list[int], all_have_one: asyncio.Event
) -> None:
    """Send all requests at once, stay until everybody has one answer, then read the others."""
    call: Any = teacher_pb2_grpc.TeacherStub(channel).Score(metadata=METADATA)
    for request_id in range(REQUESTS):
        one = request(request_id)
        # Every other client is a run, some with many clients; the rest have no name.
        one.run_id = f"run-{number % 300}" if number % 2 else ""
        await call.write(one)
    await call.done_writing()
    seen = set()
    for _ in range(REQUESTS):
        reply = await call.read()
        assert reply.WhichOneof("outcome") == "block"
        seen.add(reply.request_id)
        answered[number] += 1
        if all(answered):
            all_have_one.set()
        await all_have_one.wait()
    assert seen == set(range(REQUESTS))


async def _watch(server: TeacherServer) -> tuple[int, int, int]:
    """The most that was held, that waited and that was open, until it is cancelled."""
    replies, most = server._service.pipeline.replies, (0, 0, 0)
    try:
        while True:
            now = (replies.held, server.batcher.num_waiting_bytes, server.counters.streams)
            most = tuple(map(max, most, now))
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        return most  # type: ignore[return-value]


async def _last(levels: asyncio.Task[tuple[int, int, int]]) -> tuple[int, int, int]:
    levels.cancel()
    return await levels
