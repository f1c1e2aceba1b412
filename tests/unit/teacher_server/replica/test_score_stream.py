"""One stream without gRPC: what is read, what is written, and what is left when it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import AsyncIterator

import pytest

from protos import teacher_pb2
from teacher_server.replica import score_stream
from teacher_server.replica.batching import Batcher
from teacher_server.replica.device_health import MAX_FAILURES, DeviceHealth
from teacher_server.replica.request_check import RequestLimits
from teacher_server.replica.score_stream import HELD_BYTES, NotReadError, Pipeline, ScoreStream
from teacher_server.replica.service import TeacherService
from teacher_server.replica.worker import Stage
from teacher_server.scoring.counters import ReplicaCounters
from teacher_server.scoring.device_batches import BatchLimits, score_together
from tests.support.fake_teacher import DESCRIPTION, FakeTeacher
from tests.support.replica_calls import INVALID, int32, request, run


class Line:
    """Both ends of a stream: requests that the test puts in, replies that the stream writes."""

    def __init__(self, *, batcher_runs: bool = True, after: Line | None = None) -> None:
        """A line to a teacher of its own, or to that of a line before."""
        self.teacher = FakeTeacher() if after is None else after.teacher
        self.counters = ReplicaCounters() if after is None else after.counters
        self.device = DeviceHealth() if after is None else after.device
        if after is None:
            self.batcher = Batcher(
                functools.partial(score_together, self.teacher.score),
                BatchLimits(max_delay_s=0.001),
                counters=self.counters,
                device=self.device,
            )
        else:
            self.batcher = after.batcher
        if batcher_runs and after is None:
            self.batcher.start()
        self.pipeline = self._pipeline() if after is None else after.pipeline
        self.requests: asyncio.Queue[teacher_pb2.ScoreRequest | None] = asyncio.Queue()
        self.replies: list[teacher_pb2.ScoreReply] = []
        self.breaks = False
        self.leaves = False
        self.reads = asyncio.Event()
        self.reads.set()
        self.stream = ScoreStream(self.pipeline, self._read(), self._write)
        self.served = asyncio.create_task(self.stream.serve())

    def _pipeline(self) -> Pipeline:
        service = TeacherService(
            DESCRIPTION,
            self.batcher,
            counters=self.counters,
            device=self.device,
            replica_id="r",
            limits=RequestLimits(),
        )
        return service.pipeline

    def send(self, *requests: teacher_pb2.ScoreRequest | None) -> None:
        for each in requests:
            self.requests.put_nowait(each)

    async def _read(self) -> AsyncIterator[teacher_pb2.ScoreRequest]:
        while (one := await self.requests.get()) is not None:
            yield one

    async def _write(self, reply: teacher_pb2.ScoreReply) -> None:
        await asyncio.sleep(0)
        await self.reads.wait()
        if self.breaks:
            raise ConnectionResetError("the caller is gone")
        self.replies.append(reply)
        if self.leaves:
            self.served.cancel()
            await asyncio.sleep(0)

    async def until_waiting(self, number: int) -> None:
        while self.batcher.num_waiting < number:
            await asyncio.sleep(0.001)

    @property
    def outcomes(self) -> tuple[int, ...]:
        counters = self.counters
        assert counters.in_flight == 0
        return (counters.blocks, counters.invalid, counters.failed, counters.abandoned)


def test_stream_answers_all_that_came_before_the_half_close() -> None:
    async def scenario() -> None:
        line = Line()
        bad = request(3, fields={"range_lengths": int32(0, 1)})
        line.send(request(1), request(2), bad, request(4), None)
        await line.served
        assert sorted(reply.request_id for reply in line.replies) == [1, 2, 3, 4]
        refused = [reply.request_id for reply in line.replies if reply.HasField("error")]
        assert refused == [3]
        assert next(it for it in line.replies if it.request_id == 3).error.code == INVALID
        assert line.outcomes == (3, 1, 0, 0)

    run(scenario)


def test_stream_without_requests_ends_at_the_half_close() -> None:
    async def scenario() -> None:
        line = Line()
        line.send(None)
        await line.served
        assert line.outcomes == (0, 0, 0, 0)

    run(scenario)


def test_stream_that_drains_answers_what_is_queued_and_drops_what_has_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Room for one request and its largest reply; the second waits for it.
    monkeypatch.setattr(score_stream, "MAX_STREAM_BYTES", 1)

    async def scenario() -> None:
        line = Line(batcher_runs=False)
        line.send(request(1), request(2))
        await line.until_waiting(1)
        await asyncio.sleep(0.02)
        assert line.batcher.num_waiting == 1
        line.pipeline.draining.set()
        await asyncio.sleep(0.02)
        assert not line.served.done()
        line.batcher.start()
        await line.served
        assert [reply.request_id for reply in line.replies] == [1]
        assert line.outcomes == (1, 0, 0, 1)

    run(scenario)


def test_stream_gives_room_back_when_a_reply_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_stream, "MAX_STREAM_BYTES", 1)
    monkeypatch.setattr(score_stream, "MAX_IN_FLIGHT", 1)

    async def scenario() -> None:
        line = Line()
        line.send(*(request(number) for number in range(1, 6)), None)
        await line.served
        assert [reply.request_id for reply in line.replies] == [1, 2, 3, 4, 5]
        assert line.outcomes == (5, 0, 0, 0)

    run(scenario)


def test_stream_whose_caller_is_gone_leaves_nothing_in_the_queue() -> None:
    async def scenario() -> None:
        line = Line(batcher_runs=False)
        line.send(request(1), request(2))
        await line.until_waiting(2)
        line.served.cancel()
        with pytest.raises(asyncio.CancelledError):
            await line.served
        assert line.batcher.num_waiting == 0
        assert line.outcomes == (0, 0, 0, 2)

    run(scenario)


def test_stream_that_cannot_write_ends_with_the_reason() -> None:
    async def scenario() -> None:
        line = Line()
        line.breaks = True
        line.send(request(1), request(2))
        with pytest.raises(ConnectionResetError, match="the caller is gone"):
            await line.served
        await asyncio.sleep(0)
        # One was on its way, as far as we know; the other never was.
        assert line.outcomes == (1, 0, 0, 1)

    run(scenario)


def test_stream_whose_caller_leaves_with_an_answer_counts_it_as_one() -> None:
    """gRPC cancels a call as its caller goes, often before the write of the last reply returns."""

    async def scenario() -> None:
        line = Line()
        line.leaves = True
        line.send(request(1), request(2))
        with pytest.raises(asyncio.CancelledError):
            await line.served
        assert [reply.request_id for reply in line.replies] == [1]
        assert line.outcomes == (1, 0, 0, 1)
        assert line.counters.positions == 3

    run(scenario)


def test_stream_of_a_batcher_that_closes_ends() -> None:
    async def scenario() -> None:
        line = Line(batcher_runs=False)
        line.send(request(1), None)
        await line.until_waiting(1)
        await line.batcher.close()
        await line.served
        assert line.replies == []
        assert line.outcomes == (0, 0, 0, 1)

    run(scenario)


def test_stream_of_a_device_that_gives_no_numbers_is_told_and_makes_it_unhealthy() -> None:
    async def scenario() -> None:
        line = Line()
        line.teacher.gives_nan = True
        line.send(*(request(number) for number in range(MAX_FAILURES)), None)
        await line.served
        assert {reply.error.code for reply in line.replies} == {teacher_pb2.ScoreError.INTERNAL}
        assert "must be in [0, 1]" in line.batcher.problem
        assert line.outcomes == (0, 0, MAX_FAILURES, 0)
        again = Line(after=line)
        line.teacher.gives_nan = False
        again.send(request(1), None)
        await again.served
        assert not line.batcher.problem

    run(scenario)


# Of `request()`: three rows of at most twelve entries of fourteen bytes.
REPLY_BYTES = HELD_BYTES + 3 * (12 * 14 + 12)


def test_stream_that_nobody_reads_holds_a_bounded_part_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(score_stream, "MAX_REPLY_BYTES", 8 * REPLY_BYTES)

    async def scenario() -> None:
        silent = Line()
        silent.reads.clear()
        replies = silent.pipeline.replies
        silent.send(*(request(number) for number in range(50)), None)
        while replies.held < 4 * REPLY_BYTES:
            await asyncio.sleep(0.001)
        other = Line(after=silent)
        other.send(*(request(number) for number in range(20)), None)
        await other.served
        assert len(other.replies) == 20
        assert replies.held == 4 * REPLY_BYTES
        assert silent.counters.requests - len(other.replies) == 5
        silent.reads.set()
        await silent.served
        assert sorted(reply.request_id for reply in silent.replies) == list(range(50))
        assert replies.held == 0
        assert silent.outcomes == (70, 0, 0, 0)

    run(scenario)


def test_stream_that_nobody_reads_ends_once_others_wait_for_its_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(score_stream, "MAX_REPLY_BYTES", REPLY_BYTES)
    monkeypatch.setattr(score_stream, "NOT_READ_S", 0.01)

    async def scenario() -> None:
        silent = Line()
        silent.reads.clear()
        # The second waits for room, which is no reason to end: it waits for its own stream.
        silent.send(request(1), request(2))
        await asyncio.sleep(0.05)
        assert not silent.served.done()
        other = Line(after=silent)
        other.send(request(3), None)
        with pytest.raises(NotReadError, match="replies must be read while others wait for room"):
            await silent.served
        await other.served
        assert [reply.request_id for reply in other.replies] == [3]
        assert silent.pipeline.replies.held == 0
        # One was on its way, as far as we know.
        assert silent.outcomes == (2, 0, 0, 1)

    run(scenario)


class Noted(Line):
    """Notes each reply: whose it is, and what all streams hold and have in the queue then."""

    def __init__(self, notes: list[tuple[Line, int, int]], after: Line | None = None) -> None:
        super().__init__(after=after)
        self.notes = notes

    def _pipeline(self) -> Pipeline:
        # What is in a block is no matter here, and takes most of the time.
        encode = Stage(lambda _: b"block", "test", is_short=lambda _: True)
        return dataclasses.replace(super()._pipeline(), encode=encode)

    async def _write(self, reply: teacher_pb2.ScoreReply) -> None:
        held, waiting = self.pipeline.replies.held, self.batcher.num_waiting_bytes
        self.notes.append((self, held, waiting))
        await super()._write(reply)


def test_two_thousand_streams_are_answered_in_turn_within_the_bounds() -> None:
    max_held, max_waiting = 500 * REPLY_BYTES, 600 * request(1).ByteSize()

    async def scenario() -> list[tuple[Line, int, int]]:
        notes: list[tuple[Line, int, int]] = []
        first = Noted(notes)
        first.batcher.limits = BatchLimits(max_queue_bytes=max_waiting)
        first.pipeline.replies.limit = max_held
        lines = [first, *(Noted(notes, first) for _ in range(1999))]
        for line in lines:
            line.send(request(1), request(2), None)
        await asyncio.gather(*(line.served for line in lines))
        assert all(len(line.replies) == 2 for line in lines)
        assert first.outcomes == (4000, 0, 0, 0)
        assert first.batcher.runs.of("").requests == 4000
        return notes

    notes = asyncio.run(asyncio.wait_for(scenario(), 240))
    assert 0.7 * max_held < max(held for _, held, _ in notes) <= max_held
    assert max(waiting for *_, waiting in notes) <= max_waiting
    # Everybody has an answer before more have a second one than may be on their way at once.
    answered = [line for line, *_ in notes]
    assert len(set(answered[: 2000 + 500])) == 2000
