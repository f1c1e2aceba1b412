"""One caller's stream of requests: read, checked, scored, encoded, and bounded while it lasts.

Checking and encoding run in threads; the event loop only passes messages on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from protos import teacher_pb2
from teacher_server.batching import Batcher, Scored, ScoreWork
from teacher_server.byte_budget import ByteBudget
from teacher_server.stage import Stage
from trainer.spans import OpenSpan, Spans

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
    spans: Spans | None = None
    """Gets one for each request."""
    kind: str = ""
    """Of teacher, for the spans."""


class ScoreStream:
    """What was read of one stream and not yet answered."""

    def __init__(
        self, pipeline: Pipeline, requests: AsyncIterator[teacher_pb2.ScoreRequest]
    ) -> None:
        self._pipeline = pipeline
        self._counters = pipeline.batcher.counters
        self._requests = requests
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._budget = ByteBudget(MAX_STREAM_BYTES)
        self._replies: asyncio.Queue[teacher_pb2.ScoreReply | None] = asyncio.Queue()
        self._answers: set[asyncio.Task[str]] = set()

    async def read(self) -> None:
        """Take requests until the caller is done or the server drains; answer all that were."""
        drain = asyncio.create_task(self._pipeline.draining.wait())
        taking = asyncio.create_task(self._take_all())
        try:
            await asyncio.wait([taking, drain], return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                taking.result()
            await asyncio.gather(*self._answers)
        finally:
            drain.cancel()
            # A request that is lost by this has no answer: its sender asks elsewhere.
            taking.cancel()
            self._replies.put_nowait(None)

    async def _take_all(self) -> None:
        async for request in self._requests:
            # While there is no room the stream is not read, which holds its sender back.
            await self._room.acquire()
            self._counters.requests += 1
            is_traced = self._pipeline.spans is not None
            answer = asyncio.create_task(
                self._traced(request) if is_traced else self._answer(request)
            )
            self._answers.add(answer)
            answer.add_done_callback(self._answers.discard)

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
            # One that is done has been counted as what it is.
            self._counters.abandoned += not answer.done()
            answer.cancel()
        self._pipeline.batcher.forget(self)

    async def _traced(self, request: teacher_pb2.ScoreRequest) -> str:
        spans = self._pipeline.spans
        assert spans is not None
        span = spans.start(
            "score",
            kind=self._pipeline.kind,
            examples=len(request.target_lengths) // 4,
            parent=request.traceparent,
        )
        outcome = "abandoned"
        try:
            outcome = await self._answer(request, span)
            return outcome
        finally:
            span.end(outcome)

    async def _answer(self, request: teacher_pb2.ScoreRequest, span: OpenSpan | None = None) -> str:
        """Reply to a request; how it ended, as ReplicaCounters has it."""
        try:
            work = await self._pipeline.check.run(request)
        except ValueError as error:
            self._counters.invalid += 1
            self._refuse(request, teacher_pb2.ScoreError.INVALID_ARGUMENT, str(error))
            return "invalid"
        held = work.num_bytes + work.max_reply_bytes
        await self._budget.take(held)
        try:
            scored = await (await self._pipeline.batcher.submit(work, self))
            scored_ns = time.time_ns()
            block = await self._pipeline.encode.run((scored.rows, request.compression.values))
        except (RuntimeError, ValueError, MemoryError) as error:
            # The device failed, or gave no distribution (NaN): neither is the caller's doing.
            self._budget.give(held)
            self._counters.failed += 1
            self._refuse(request, teacher_pb2.ScoreError.INTERNAL, str(error))
            return "failed"
        if span is not None:
            _add_parts(span, scored, scored_ns)
        self._count(work, block)
        # From the most that it could have been to what it is.
        self._budget.give(held - len(block))
        self._replies.put_nowait(
            teacher_pb2.ScoreReply(
                request_id=request.request_id,
                block=block,
                queue_s=scored.queue_s,
                forward_s=scored.forward_s,
            )
        )
        return "block"

    def _count(self, work: ScoreWork, block: bytes) -> None:
        counters = self._counters
        counters.blocks += 1
        counters.positions += work.num_rows
        counters.request_bytes += work.num_bytes
        counters.reply_bytes += len(block)

    def _refuse(
        self,
        request: teacher_pb2.ScoreRequest,
        code: teacher_pb2.ScoreError.Code,
        message: str,
    ) -> None:
        error = teacher_pb2.ScoreError(code=code, message=message)
        self._replies.put_nowait(teacher_pb2.ScoreReply(request_id=request.request_id, error=error))


def _add_parts(span: OpenSpan, scored: Scored[Any], scored_ns: int) -> None:
    """Where the time of a request went; the forward is that of the whole round."""
    forward_ns = scored_ns - round(scored.forward_s * 1e9)
    span.part("queue", forward_ns - round(scored.queue_s * 1e9), forward_ns)
    span.part("forward", forward_ns, scored_ns)
    span.part("encode", scored_ns, time.time_ns())
