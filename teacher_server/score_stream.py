"""One caller's stream of requests: read, checked, scored, encoded, and bounded while it lasts.

Checking and encoding run in threads; the event loop only passes messages on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from protos import teacher_pb2
from teacher_server.batching import Batcher, ScoreWork
from teacher_server.stage import Stage
from trainer.byte_budget import ByteBudget

# Requests of one stream that are read but not yet answered, replies not yet sent included, and the
# bytes of them and of their replies: a client that does not read its replies stops only itself.
MAX_IN_FLIGHT = 64
MAX_STREAM_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What a request of any stream goes through."""

    check: Stage[teacher_pb2.ScoreRequest, ScoreWork]
    """Raises ValueError for a malformed request."""
    batcher: Batcher[Any]
    encode: Stage[tuple[Any, int], bytes]
    """What the batcher gave for a request, and a format of values -> a reply block."""
    draining: asyncio.Event


class ScoreStream:
    """What was read of one stream and not yet answered."""

    def __init__(
        self,
        pipeline: Pipeline,
        requests: AsyncIterator[teacher_pb2.ScoreRequest],
        write: Callable[[teacher_pb2.ScoreReply], Awaitable[None]],
    ) -> None:
        self._pipeline = pipeline
        self._requests = requests
        self._write = write
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._budget = ByteBudget(MAX_STREAM_BYTES)
        self._writing = asyncio.Lock()
        self._answers: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        """Answer each request as soon as it is done, until the caller is done or we drain.

        Raises:
            Exception: what a reply could not be made or written for; the stream is at its end.
        """
        drain = asyncio.create_task(self._pipeline.draining.wait())
        reading = asyncio.create_task(self._read_all())
        try:
            ends = [reading, drain, self._broken]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            # A request that is lost by this has no answer: its sender asks elsewhere.
            reading.cancel()
            while self._answers and not self._broken.done():
                await asyncio.wait(
                    [*self._answers, self._broken], return_when=asyncio.FIRST_COMPLETED
                )
            if self._broken.done():
                self._broken.result()
        finally:
            drain.cancel()
            reading.cancel()
            self._broken.cancel()
            # If the caller is gone: what it still waits for leaves the queue.
            for answer in self._answers:
                answer.cancel()
            self._pipeline.batcher.forget(self)

    async def _read_all(self) -> None:
        async for request in self._requests:
            # While there is no room the stream is not read, which holds its sender back.
            await self._room.acquire()
            answer = asyncio.create_task(self._answer(request))
            self._answers.add(answer)
            answer.add_done_callback(self._on_answered)

    def _on_answered(self, answer: asyncio.Task[None]) -> None:
        self._answers.discard(answer)
        self._room.release()
        error = None if answer.cancelled() else answer.exception()
        if error is not None and not self._broken.done():
            self._broken.set_exception(error)

    async def _answer(self, request: teacher_pb2.ScoreRequest) -> None:
        try:
            work = await self._pipeline.check.run(request)
        except ValueError as error:
            await self._send(_refusal(request, teacher_pb2.ScoreError.INVALID_ARGUMENT, error))
            return
        # Of the request, and of the reply at its largest: held until the reply has left.
        held = work.num_bytes + work.max_reply_bytes
        await self._budget.take(held)
        try:
            reply = await self._reply(request, work)
            shrunk = len(reply.block)
            self._budget.give(held - shrunk)
            held = shrunk
            await self._send(reply)
        finally:
            self._budget.give(held)

    async def _reply(
        self, request: teacher_pb2.ScoreRequest, work: ScoreWork
    ) -> teacher_pb2.ScoreReply:
        try:
            scored = await (await self._pipeline.batcher.submit(work, self))
            block = await self._pipeline.encode.run((scored.rows, request.compression.values))
        except (RuntimeError, ValueError, MemoryError) as error:
            # The device failed, or gave no distribution (NaN): neither is the caller's doing.
            return _refusal(request, teacher_pb2.ScoreError.INTERNAL, error)
        return teacher_pb2.ScoreReply(
            request_id=request.request_id,
            block=block,
            queue_s=scored.queue_s,
            forward_s=scored.forward_s,
        )

    async def _send(self, reply: teacher_pb2.ScoreReply) -> None:
        # gRPC takes one message of a stream at a time.
        async with self._writing:
            await self._write(reply)


def _refusal(
    request: teacher_pb2.ScoreRequest, code: teacher_pb2.ScoreError.Code, error: Exception
) -> teacher_pb2.ScoreReply:
    refused = teacher_pb2.ScoreError(code=code, message=str(error))
    return teacher_pb2.ScoreReply(request_id=request.request_id, error=refused)
