"""Many clients of one replica over gRPC, a few hundred to a process.

    python -m tests.support.crowd serve              prints its port, then its memory each second
    python -m tests.support.crowd ask PORT NUMBER    prints "ready", waits for a line, then asks

Each client has a run, a channel and a stream of its own. Where many connections come at once gRPC
ends some of the new streams (CANCELLED, INTERNAL); a client dials again, as ours does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable

import grpc
import psutil

from protos import teacher_pb2, teacher_pb2_grpc
from teacher_server.replica.service import TeacherServer
from tests.support.fake_teacher import FakeTeacher
from tests.support.replica_calls import METADATA, request

TURNS = 10
TRIES = 50
TRY_AGAIN_S = 0.2
LOST = (grpc.aio.AioRpcError, asyncio.InvalidStateError)


async def serve() -> None:
    server = TeacherServer(FakeTeacher(), replica_id="replica-1")
    print(await server.start("127.0.0.1"), flush=True)
    process = psutil.Process()
    while True:
        held = process.memory_info().rss
        print(json.dumps({"streams": server.counters.streams, "rss": held}), flush=True)
        await asyncio.sleep(1)


class Client:
    """One run with one stream, which sends its next request once it has the reply to the last."""

    def __init__(self, port: int, number: int) -> None:
        self._run = f"run-{number}"
        self._address = f"127.0.0.1:{port}"
        self.answered = 0
        self.dialed = 0
        self.may_go_on = asyncio.Event()
        self.is_ready = asyncio.Event()

    async def ask(self, on_end: Callable[[], None]) -> None:
        # Without its own pool all channels of a process would share one connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._address, options) as channel:
            while self.dialed < TRIES and self.answered < TURNS:
                self.dialed += 1
                try:
                    await self._stream(teacher_pb2_grpc.TeacherStub(channel))
                except LOST:
                    await asyncio.sleep(TRY_AGAIN_S)
        on_end()

    async def _stream(self, stub: teacher_pb2_grpc.TeacherStub) -> None:
        call = stub.Score(metadata=METADATA)
        while self.answered < TURNS:
            message = request(self.answered)
            message.run_id = self._run
            await call.write(message)
            reply = await call.read()
            if not isinstance(reply, teacher_pb2.ScoreReply):
                return  # the end of the stream
            assert (reply.request_id, reply.HasField("error")) == (self.answered, False)
            self.answered += 1
            self.is_ready.set()
            await self.may_go_on.wait()
        await call.done_writing()


async def ask(port: int, number: int, first: int) -> None:
    """All clients are answered once; then, from a line of stdin on, all go on at once."""
    clients = [Client(port, first + at) for at in range(number)]
    fewest_at_ends: list[int] = []

    def on_end() -> None:
        fewest_at_ends.append(min(client.answered for client in clients))

    tasks = [asyncio.create_task(client.ask(on_end)) for client in clients]
    for client in clients:
        await client.is_ready.wait()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for client in clients:
        client.may_go_on.set()
    await asyncio.gather(*tasks)
    shown = {
        "answered": [client.answered for client in clients],
        "dialed": sum(client.dialed for client in clients),
        "fewest_at_first_end": fewest_at_ends[0],
    }
    print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        asyncio.run(ask(*map(int, sys.argv[2:])))
