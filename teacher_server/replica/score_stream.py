"""One caller's stream of requests: read, checked, scored, encoded, and bounded while it lasts.

Two tasks per stream and none per request: one reads and checks and queues, one encodes and writes.
What is long of checking and encoding runs in threads; the event loop only passes messages on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from protos import teacher_pb2
from teacher_server.replica.batching import Batcher, Scored
from teacher_server.replica.stage import Stage
from teacher_server.scoring.counters import Outcome
from teacher_server.scoring.score_work import ScoreWork
from trainer.common.byte_budget import ByteBudget
from trainer.telemetry.spans import OpenSpan, Spans

# Requests of one stream that are read but not yet answered, replies not yet sent included; bytes of
# these requests and of their replies: a client that does not read stops only itself.
MAX_IN_FLIGHT = 64
MAX_STREAM_BYTES = 64 << 20


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


@dataclass(eq=False, slots=True)
class _Exchange:
    """One request, until its reply has left; the message itself is let go once it is checked."""

    request_id: int
    values: int
    """Format of the reply's values."""
    span: OpenSpan | None
    refusal: str = ""
    """Why it is malformed; not the error itself, which would hold the message."""
    answer: asyncio.Future[Scored[Any]] | None = None
    """If it is not malformed."""
    num_rows: int = 0
    held: int = 0
    """Bytes of the stream's budget: those of the request and, at the largest, of its reply."""
    outcome: Outcome = "abandoned"
    """What it ends as if it ended now."""


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
        self._freed = asyncio.Event()
        self._budget = ByteBudget(MAX_STREAM_BYTES)
        self._open: set[_Exchange] = set()
        self._answered: asyncio.Queue[_Exchange | None] = asyncio.Queue()
        """Of the open ones, in the order in which they were done; None: no more will be read."""

    async def serve(self) -> None:
        """Answer each request as soon as it is done, until the caller is done or we drain.

        Raises:
            Exception: what a reply could not be made or written for; the stream is at its end.
        """
        drain = asyncio.create_task(self._pipeline.draining.wait())
        reading = asyncio.create_task(self._read_all())
        writing = asyncio.create_task(self._write_all())
        try:
            ends = [drain, reading, writing]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            # A request that is lost by this has no answer: its sender asks elsewhere.
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.result()
            self._answered.put_nowait(None)
            await writing
        finally:
            for task in (drain, reading, writing):
                task.cancel()
            # If the caller is gone: what it still waits for leaves the queue.
            for exchange in list(self._open):
                self._end(exchange)
            self._pipeline.batcher.forget(self)

    async def _read_all(self) -> None:
        spans = self._pipeline.spans
        async for request in self._requests:
            # While there is no room the stream is not read, which holds its sender back.
            while len(self._open) >= MAX_IN_FLIGHT:
                self._freed.clear()
                await self._freed.wait()
            self._counters.requests += 1
            span = self._start_span(request, spans) if spans else None
            exchange = _Exchange(request.request_id, request.compression.values, span)
            self._open.add(exchange)
            try:
                await self._accept(exchange, request)
            except asyncio.CancelledError:
                self._end(exchange)
                raise

    def _start_span(self, request: teacher_pb2.ScoreRequest, spans: Spans) -> OpenSpan:
        return spans.start(
            "score",
            kind=self._pipeline.kind,
            examples=len(request.target_lengths) // 4,
            parent=request.traceparent,
        )

    async def _accept(self, exchange: _Exchange, request: teacher_pb2.ScoreRequest) -> None:
        """Check the request and, once there is room for it and its reply, queue it."""
        try:
            work = await self._pipeline.check.run(request)
        except ValueError as error:
            exchange.refusal = str(error)
            self._answered.put_nowait(exchange)
            return
        size = work.num_bytes + work.max_reply_bytes
        if not self._budget.try_take(size):
            await self._budget.take(size)
        exchange.held, exchange.num_rows = size, work.num_rows
        exchange.answer = await self._pipeline.batcher.submit(work, self)
        exchange.answer.add_done_callback(lambda _: self._answered.put_nowait(exchange))
        self._counters.request_bytes += work.num_bytes

    async def _write_all(self) -> None:
        """Reply to what is answered, until nothing is open and nothing more will be read."""
        all_read = False
        while self._open or not all_read:
            exchange = await self._answered.get()
            if exchange is None:
                all_read = True
            elif exchange.answer is not None and exchange.answer.cancelled():
                self._end(exchange)
            else:
                # Before it is written: a caller may have its answer and be gone before we know.
                reply, exchange.outcome = await self._reply(exchange)
                await self._write(reply)
                self._end(exchange)

    async def _reply(self, exchange: _Exchange) -> tuple[teacher_pb2.ScoreReply, Outcome]:
        request_id = exchange.request_id
        if exchange.answer is None:
            code = teacher_pb2.ScoreError.INVALID_ARGUMENT
            return _refused(request_id, code, exchange.refusal), "invalid"
        device = self._pipeline.batcher.device
        try:
            scored = exchange.answer.result()
        except (RuntimeError, MemoryError) as error:
            return _refused(request_id, teacher_pb2.ScoreError.INTERNAL, str(error)), "failed"
        scored_s = time.perf_counter()
        try:
            block = await self._pipeline.encode.run((scored.rows, exchange.values))
        except (RuntimeError, ValueError, MemoryError) as error:
            # It gave no distribution (NaN), which is not the caller's doing.
            device.failed(str(error))
            return _refused(request_id, teacher_pb2.ScoreError.INTERNAL, str(error)), "failed"
        device.succeeded()
        self._count(exchange, scored, len(block), time.perf_counter() - scored_s)
        reply = teacher_pb2.ScoreReply(
            request_id=request_id,
            block=block,
            queue_s=scored.queue_s,
            forward_s=scored.forward_s,
        )
        return reply, "block"

    def _count(
        self, exchange: _Exchange, scored: Scored[Any], num_bytes: int, encode_s: float
    ) -> None:
        """Count a reply block."""
        counters = self._counters
        counters.positions += exchange.num_rows
        counters.reply_bytes += num_bytes
        counters.encode_s.observe(encode_s)
        if exchange.span is not None:
            _add_parts(exchange.span, scored, encode_s)

    def _end(self, exchange: _Exchange) -> None:
        """Free its room, and count it by how it ended, once."""
        if exchange not in self._open:
            return
        self._open.remove(exchange)
        self._freed.set()
        self._budget.give(exchange.held)
        self._counters.end(exchange.outcome)
        if exchange.answer is not None:
            exchange.answer.cancel()
        if exchange.span is not None:
            exchange.span.end(exchange.outcome)


def _refused(
    request_id: int, code: teacher_pb2.ScoreError.Code, reason: str
) -> teacher_pb2.ScoreReply:
    error = teacher_pb2.ScoreError(code=code, message=reason)
    return teacher_pb2.ScoreReply(request_id=request_id, error=error)


def _add_parts(span: OpenSpan, scored: Scored[Any], encode_s: float) -> None:
    """Where the time of a request went; the forward is that of the whole round."""
    encoded_ns = time.time_ns()
    scored_ns = encoded_ns - round(encode_s * 1e9)
    forward_ns = scored_ns - round(scored.forward_s * 1e9)
    span.part("queue", forward_ns - round(scored.queue_s * 1e9), forward_ns)
    span.part("forward", forward_ns, scored_ns)
    span.part("encode", scored_ns, encoded_ns)
