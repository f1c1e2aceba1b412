"""One caller's stream of requests: read, checked, scored, encoded, and bounded while it lasts.

Checking and encoding run in threads; the event loop only passes messages on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from protos import teacher_pb2
from teacher_server.batching import Batcher, Scored, ScoreWork
from teacher_server.counters import Outcome
from teacher_server.stage import Stage
from trainer.byte_budget import ByteBudget
from trainer.spans import OpenSpan, Spans

# Requests of one stream that are read but not yet answered, replies not yet sent included; bytes of
# these requests, and as many of their replies: a client that does not read stops only itself.
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
        self,
        pipeline: Pipeline,
        requests: AsyncIterator[teacher_pb2.ScoreRequest],
        write: Callable[[teacher_pb2.ScoreReply], Awaitable[None]],
    ) -> None:
        self._pipeline = pipeline
        self._counters = pipeline.batcher.counters
        self._requests = requests
        self._write = write
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        # Two, for a reply must find room while requests wait behind it.
        self._request_budget = ByteBudget(MAX_STREAM_BYTES)
        self._reply_budget = ByteBudget(MAX_STREAM_BYTES)
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
            await self._request_budget.take(request.ByteSize())
            answer = asyncio.create_task(self._handle(request))
            self._answers.add(answer)
            answer.add_done_callback(self._on_answered)

    def _on_answered(self, answer: asyncio.Task[None]) -> None:
        self._answers.discard(answer)
        self._room.release()
        error = None if answer.cancelled() else answer.exception()
        if error is not None and not self._broken.done():
            self._broken.set_exception(error)

    async def _handle(self, request: teacher_pb2.ScoreRequest) -> None:
        """Answer a request, and count it by how it ended."""
        self._counters.requests += 1
        span = self._start_span(request)
        outcome: Outcome = "abandoned"
        try:
            outcome = await self._answer(request, span)
        finally:
            self._request_budget.give(request.ByteSize())
            self._counters.end(outcome)
            if span is not None:
                span.end(outcome)

    def _start_span(self, request: teacher_pb2.ScoreRequest) -> OpenSpan | None:
        if self._pipeline.spans is None:
            return None
        return self._pipeline.spans.start(
            "score",
            kind=self._pipeline.kind,
            examples=len(request.target_lengths) // 4,
            parent=request.traceparent,
        )

    async def _answer(self, request: teacher_pb2.ScoreRequest, span: OpenSpan | None) -> Outcome:
        try:
            work = await self._pipeline.check.run(request)
        except ValueError as error:
            await self._send(_refusal(request, teacher_pb2.ScoreError.INVALID_ARGUMENT, error))
            return "invalid"
        # Of the reply at its largest, held until it has left.
        held = work.max_reply_bytes
        await self._reply_budget.take(held)
        try:
            reply = await self._reply(request, work, span)
            shrunk = len(reply.block)
            self._reply_budget.give(held - shrunk)
            held = shrunk
            await self._send(reply)
            return "failed" if reply.HasField("error") else "block"
        finally:
            self._reply_budget.give(held)

    async def _reply(
        self, request: teacher_pb2.ScoreRequest, work: ScoreWork, span: OpenSpan | None
    ) -> teacher_pb2.ScoreReply:
        try:
            scored = await (await self._pipeline.batcher.submit(work, self))
            scored_s = time.perf_counter()
            block = await self._pipeline.encode.run((scored.rows, request.compression.values))
        except (RuntimeError, ValueError, MemoryError) as error:
            # The device failed, or gave no distribution (NaN): neither is the caller's doing.
            return _refusal(request, teacher_pb2.ScoreError.INTERNAL, error)
        encode_s = time.perf_counter() - scored_s
        self._count(work, block, encode_s)
        if span is not None:
            _add_parts(span, scored, encode_s)
        return teacher_pb2.ScoreReply(
            request_id=request.request_id,
            block=block,
            queue_s=scored.queue_s,
            forward_s=scored.forward_s,
        )

    def _count(self, work: ScoreWork, block: bytes, encode_s: float) -> None:
        counters = self._counters
        counters.positions += work.num_rows
        counters.request_bytes += work.num_bytes
        counters.reply_bytes += len(block)
        counters.encode_s.observe(encode_s)

    async def _send(self, reply: teacher_pb2.ScoreReply) -> None:
        # gRPC takes one message of a stream at a time.
        async with self._writing:
            await self._write(reply)


def _refusal(
    request: teacher_pb2.ScoreRequest, code: teacher_pb2.ScoreError.Code, error: Exception
) -> teacher_pb2.ScoreReply:
    refused = teacher_pb2.ScoreError(code=code, message=str(error))
    return teacher_pb2.ScoreReply(request_id=request.request_id, error=refused)


def _add_parts(span: OpenSpan, scored: Scored[Any], encode_s: float) -> None:
    """Where the time of a request went; the forward is that of the whole round."""
    encoded_ns = time.time_ns()
    scored_ns = encoded_ns - round(encode_s * 1e9)
    forward_ns = scored_ns - round(scored.forward_s * 1e9)
    span.part("queue", forward_ns - round(scored.queue_s * 1e9), forward_ns)
    span.part("forward", forward_ns, scored_ns)
    span.part("encode", scored_ns, encoded_ns)
