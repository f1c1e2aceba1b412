"""One caller's stream of requests: read, checked, scored, encoded, and bounded while it lasts.

Two tasks per stream and none per request: one reads, checks and queues, the other encodes and
writes; a third sleeps and looks whether anybody reads what is written. Long checks and encodings
run in threads; the event loop only passes messages on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from protos import teacher_pb2
from teacher_server.replica.batching import Batcher, BatchResult
from teacher_server.replica.device_health import DeviceHealth
from teacher_server.replica.fair_budget import FairBudget, Piece
from teacher_server.replica.worker import Stage
from teacher_server.scoring.counters import Outcome, ReplicaCounters
from teacher_server.scoring.score_work import ScoreWork
from trainer.common.byte_budget import ByteBudget
from trainer.telemetry.spans import OpenSpan, Spans

# Requests of one stream whose replies are not yet sent, and the bytes of both.
MAX_IN_FLIGHT = 64
MAX_STREAM_BYTES = 64 << 20
# Of all streams together: the largest possible replies of what is read and not yet answered.
MAX_REPLY_BYTES = 512 << 20
# What is held of a request and its reply however small they are, so that their number is bounded.
HELD_BYTES = 4 << 10
# A stream of which nothing was read for so long, or up to twice as long, ends if others wait for
# room. A dead client is cut off by keepalive before.
NOT_READ_S = 60.0


class NotReadError(Exception):
    """The caller does not read its replies, and others need the room."""


NOT_READ = (
    f"replies must be read while others wait for room, got none read for {NOT_READ_S:g} s. "
    "Send the rest again, here or elsewhere."
)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The steps of a request of any stream, and where they are counted."""

    check: Stage[teacher_pb2.ScoreRequest, ScoreWork]
    """Raises ValueError for a malformed request."""
    batcher: Batcher[Any]
    encode: Stage[tuple[Any, int], bytes]
    """The batcher's rows of a request, and a number of ValueFormat -> a reply block."""
    counters: ReplicaCounters
    device: DeviceHealth
    draining: asyncio.Event
    replies: FairBudget = field(default_factory=lambda: FairBudget(MAX_REPLY_BYTES))
    """Room for the replies of all streams."""
    spans: Spans | None = None
    """Gets one for each request."""
    kind: str = ""
    """Of teacher, for the spans."""


@dataclass(eq=False, slots=True)
class InFlightRequest:
    """One request until its reply was written; its message is dropped after the check."""

    request_id: int
    values: int
    """Format of the reply's values."""
    span: OpenSpan | None
    refusal: str = ""
    """Why it is malformed; not the error itself, which would hold the message."""
    result: asyncio.Future[BatchResult[Any]] | None = None
    """None if it is malformed."""
    num_rows: int = 0
    run_id: str = ""
    held: int = 0
    """Bytes of the stream's budget: those of the request and of the largest possible reply."""
    reply_room: Piece | None = None
    """Of the budget of all replies."""
    outcome: Outcome = "abandoned"
    """Outcome to count if the request ends at this point."""


class ScoreStream:
    """The requests in flight of one stream."""

    def __init__(
        self,
        pipeline: Pipeline,
        messages: AsyncIterator[teacher_pb2.ScoreRequest],
        write: Callable[[teacher_pb2.ScoreReply], Awaitable[None]],
    ) -> None:
        self._pipeline = pipeline
        self._counters = pipeline.counters
        self._messages = messages
        self._write = write
        self._freed = asyncio.Event()
        self._budget = ByteBudget(MAX_STREAM_BYTES)
        self._in_flight: set[InFlightRequest] = set()
        self._being_written: InFlightRequest | None = None
        self._is_cut_off = False
        self._done: asyncio.Queue[InFlightRequest | None] = asyncio.Queue()
        """In the order in which they were done; None: no more will be read."""

    async def serve(self) -> None:
        """Reply to each request as soon as it is done, until the caller ends or we drain.

        Raises:
            NotReadError: if nobody reads the replies while others wait for room.
            Exception: what a reply could not be made or written for; it ends the stream.
        """
        drain = asyncio.create_task(self._pipeline.draining.wait())
        reading = asyncio.create_task(self._read_all())
        writing = asyncio.create_task(self._write_all())
        watching = asyncio.create_task(self._watch(writing))
        try:
            ends = [drain, reading, writing]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            # A request that this loses gets no reply: its sender tries another replica.
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.result()
            self._done.put_nowait(None)
            await writing
        except asyncio.CancelledError:
            if self._is_cut_off:
                raise NotReadError(NOT_READ) from None
            raise
        finally:
            for task in (drain, reading, writing, watching):
                task.cancel()
            # If the caller disconnected: its requests leave the queue.
            for request in list(self._in_flight):
                self._end(request)

    async def _watch(self, writing: asyncio.Task[None]) -> None:
        """Cut the stream off if one write lasts while others wait for room."""
        while not self._is_cut_off:
            before = self._being_written
            await asyncio.sleep(NOT_READ_S)
            is_stuck = before is not None and before is self._being_written
            if is_stuck and self._pipeline.replies.others_wait(self):
                self._is_cut_off = True
                writing.cancel()

    async def _read_all(self) -> None:
        spans = self._pipeline.spans
        async for message in self._messages:
            # While there is no room the stream is not read, which holds its sender back.
            while len(self._in_flight) >= MAX_IN_FLIGHT:
                self._freed.clear()
                await self._freed.wait()
            self._counters.requests += 1
            span = self._start_span(message, spans) if spans else None
            request = InFlightRequest(message.request_id, message.compression.values, span)
            self._in_flight.add(request)
            try:
                await self._accept(request, message)
            except asyncio.CancelledError:
                self._end(request)
                raise

    def _start_span(self, message: teacher_pb2.ScoreRequest, spans: Spans) -> OpenSpan:
        return spans.start(
            "score",
            kind=self._pipeline.kind,
            examples=len(message.range_lengths) // 4,
            parent=message.traceparent,
        )

    async def _accept(self, request: InFlightRequest, message: teacher_pb2.ScoreRequest) -> None:
        """Check the request and queue it, once there is room for it and its reply."""
        try:
            work = await self._pipeline.check.run(message)
        except ValueError as error:
            request.refusal = str(error)
            self._done.put_nowait(request)
            return
        await self._make_room(request, work)
        request.num_rows, request.run_id = work.num_rows, work.run_id
        request.result = await self._pipeline.batcher.submit(work, self)
        request.result.add_done_callback(lambda _: self._done.put_nowait(request))
        self._counters.request_bytes += work.num_bytes
        of_run = self._pipeline.batcher.runs.of(work.run_id)
        of_run.requests += 1
        of_run.request_bytes += work.num_bytes

    async def _make_room(self, request: InFlightRequest, work: ScoreWork) -> None:
        """Wait until there is room for the request and its reply, of this stream and of all."""
        size = work.num_bytes + work.max_reply_bytes
        if not self._budget.try_take(size):
            await self._budget.take(size)
        request.held = size
        replies = self._pipeline.replies
        size = HELD_BYTES + work.max_reply_bytes
        room = Piece(work.run_id or self, self, size, work.is_low)
        if not replies.try_take(room):
            await replies.take(room)
        request.reply_room = room

    async def _write_all(self) -> None:
        """Reply to what is done, until nothing is in flight and nothing more will be read."""
        all_read = False
        while self._in_flight or not all_read:
            request = await self._done.get()
            if request is None:
                all_read = True
            elif request.result is not None and request.result.cancelled():
                self._end(request)
            else:
                # Set before the write: the caller may disconnect right after it got the reply.
                reply, request.outcome = await self._reply(request)
                self._being_written = request
                await self._write(reply)
                self._being_written = None
                self._end(request)

    async def _reply(self, request: InFlightRequest) -> tuple[teacher_pb2.ScoreReply, Outcome]:
        request_id = request.request_id
        if request.result is None:
            code = teacher_pb2.ScoreError.INVALID_ARGUMENT
            return _refused(request_id, code, request.refusal), "invalid"
        device = self._pipeline.device
        try:
            result = request.result.result()
        except (RuntimeError, MemoryError) as error:
            return _refused(request_id, teacher_pb2.ScoreError.INTERNAL, str(error)), "failed"
        scored_s = time.perf_counter()
        try:
            block = await self._pipeline.encode.run((result.rows, request.values))
        except (RuntimeError, ValueError, MemoryError) as error:
            # The rows were no distributions (NaN), which is not the caller's fault.
            device.failed(str(error))
            return _refused(request_id, teacher_pb2.ScoreError.INTERNAL, str(error)), "failed"
        device.succeeded()
        self._count(request, result, len(block), time.perf_counter() - scored_s)
        reply = teacher_pb2.ScoreReply(
            request_id=request_id,
            block=block,
            queue_s=result.queue_s,
            forward_s=result.forward_s,
        )
        return reply, "block"

    def _count(
        self, request: InFlightRequest, result: BatchResult[Any], num_bytes: int, encode_s: float
    ) -> None:
        """Count a reply block."""
        counters = self._counters
        counters.positions += request.num_rows
        counters.reply_bytes += num_bytes
        counters.encode_s.observe(encode_s)
        of_run = self._pipeline.batcher.runs.of(request.run_id)
        of_run.positions += request.num_rows
        of_run.reply_bytes += num_bytes
        if request.span is not None:
            _add_parts(request.span, result, encode_s)

    def _end(self, request: InFlightRequest) -> None:
        """Free the request's room and count its outcome, once."""
        if request not in self._in_flight:
            return
        self._in_flight.remove(request)
        self._freed.set()
        self._budget.give(request.held)
        if request.reply_room is not None:
            self._pipeline.replies.give(request.reply_room)
        self._counters.end(request.outcome)
        if request.result is not None:
            request.result.cancel()
        if request.span is not None:
            request.span.end(request.outcome)


def _refused(
    request_id: int, code: teacher_pb2.ScoreError.Code, reason: str
) -> teacher_pb2.ScoreReply:
    error = teacher_pb2.ScoreError(code=code, message=reason)
    return teacher_pb2.ScoreReply(request_id=request_id, error=error)


def _add_parts(span: OpenSpan, result: BatchResult[Any], encode_s: float) -> None:
    """Where the time of a request went; the forward is that of the whole round."""
    encoded_ns = time.time_ns()
    scored_ns = encoded_ns - round(encode_s * 1e9)
    forward_ns = scored_ns - round(result.forward_s * 1e9)
    span.part("queue", forward_ns - round(result.queue_s * 1e9), forward_ns)
    span.part("forward", forward_ns, scored_ns)
    span.part("encode", scored_ns, encoded_ns)
