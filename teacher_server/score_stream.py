"""One caller's stream of requests: read, checked, scored, encoded, and bounded while it lasts.

Checking and encoding run in threads; the event loop only passes messages on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from protos import teacher_pb2
from teacher_server.batching import Batcher, Scored, ScoreWork
from teacher_server.byte_budget import ByteBudget

# Requests of one stream that are read but not yet answered, and the bytes that they and their
# replies may take, replies not yet sent included: a client that does not read stops only itself.
MAX_IN_FLIGHT = 64
MAX_STREAM_BYTES = 32 << 20

CheckFn = Callable[[teacher_pb2.ScoreRequest], ScoreWork]
EncodeFn = Callable[[Any, int], bytes]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What every stream of a server shares."""

    check: CheckFn
    """Raises ValueError for a malformed request."""
    batcher: Batcher[Any]
    encode: EncodeFn
    """What the batcher gave for a request, and a format of values, to a reply block."""
    checker: Executor
    encoder: Executor
    draining: asyncio.Event


class ScoreStream:
    """What was read of one stream and not yet answered."""

    def __init__(self, stages: Stages, requests: AsyncIterator[teacher_pb2.ScoreRequest]) -> None:
        self._stages = stages
        self._requests = requests
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._budget = ByteBudget(MAX_STREAM_BYTES)
        self._replies: asyncio.Queue[teacher_pb2.ScoreReply | None] = asyncio.Queue()
        self._answers: set[asyncio.Task[None]] = set()

    async def read(self) -> None:
        """Take requests until the caller is done or the server drains; answer all that were."""
        drain = asyncio.create_task(self._stages.draining.wait())
        try:
            while (request := await self._next_request(drain)) is not None:
                await self._room.acquire()
                await self._accept(request)
            await asyncio.gather(*self._answers)
        finally:
            drain.cancel()
            self._replies.put_nowait(None)

    async def next_reply(self) -> teacher_pb2.ScoreReply | None:
        """The next reply to send, None after the last."""
        return await self._replies.get()

    def sent(self, reply: teacher_pb2.ScoreReply) -> None:
        """The reply has left; another request may be read."""
        self._budget.give(len(reply.block))
        self._room.release()

    def cancel(self) -> None:
        """The caller is gone: take what it still waits for out of the queue."""
        for answer in self._answers:
            answer.cancel()
        self._stages.batcher.forget(self)

    async def _next_request(self, drain: asyncio.Task[bool]) -> teacher_pb2.ScoreRequest | None:
        read = asyncio.ensure_future(anext(self._requests, None))
        await asyncio.wait([read, drain], return_when=asyncio.FIRST_COMPLETED)
        if read.done():
            return read.result()
        # Left pending on purpose: it ends with the RPC, while cancelling it could lose a message
        # that C-core has already read.
        read.add_done_callback(_retrieve)
        return None

    async def _accept(self, request: teacher_pb2.ScoreRequest) -> None:
        stages = self._stages
        try:
            work = await asyncio.get_running_loop().run_in_executor(
                stages.checker, stages.check, request
            )
        except ValueError as error:
            self._refuse(request, teacher_pb2.ScoreError.INVALID_ARGUMENT, str(error))
            return
        # Both wait while there is no room, so that the stream is not read and its sender is held
        # back.
        held = work.num_bytes + work.max_reply_bytes
        await self._budget.take(held)
        scored = await stages.batcher.submit(work, self)
        answer = asyncio.create_task(self._answer(request, scored, held))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _answer(
        self, request: teacher_pb2.ScoreRequest, scored: asyncio.Future[Scored[Any]], held: int
    ) -> None:
        stages = self._stages
        try:
            result = await scored
            block = await asyncio.get_running_loop().run_in_executor(
                stages.encoder, stages.encode, result.rows, request.compression.values
            )
        except (RuntimeError, ValueError, MemoryError) as error:
            # The device failed, or gave no distribution (NaN): neither is the caller's doing.
            self._budget.give(held)
            self._refuse(request, teacher_pb2.ScoreError.INTERNAL, str(error))
            return
        # From the most that it could have been to what it is.
        self._budget.give(held - len(block))
        self._replies.put_nowait(
            teacher_pb2.ScoreReply(
                request_id=request.request_id,
                block=block,
                queue_s=result.queue_s,
                forward_s=result.forward_s,
            )
        )

    def _refuse(
        self,
        request: teacher_pb2.ScoreRequest,
        code: teacher_pb2.ScoreError.Code,
        message: str,
    ) -> None:
        error = teacher_pb2.ScoreError(code=code, message=message)
        self._replies.put_nowait(teacher_pb2.ScoreReply(request_id=request.request_id, error=error))


def _retrieve(read: asyncio.Future[teacher_pb2.ScoreRequest | None]) -> None:
    # So that asyncio does not report an exception nobody looked at.
    if not read.cancelled():
        read.exception()
