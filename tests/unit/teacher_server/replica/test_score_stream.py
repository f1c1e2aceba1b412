"""One stream without gRPC: what is read, what is written, and what is left when it ends."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator

import pytest

from protos import teacher_pb2
from teacher_server.replica import score_stream
from teacher_server.replica.batching import Batcher
from teacher_server.replica.device_health import MAX_FAILURES, DeviceHealth
from teacher_server.replica.request_check import RequestLimits
from teacher_server.replica.score_stream import ScoreStream
from teacher_server.replica.service import TeacherService
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
        service = TeacherService(
            DESCRIPTION,
            self.batcher,
            counters=self.counters,
            device=self.device,
            replica_id="r",
            limits=RequestLimits(),
        )
        self.pipeline = service.pipeline
        self.requests: asyncio.Queue[teacher_pb2.ScoreRequest | None] = asyncio.Queue()
        self.replies: list[teacher_pb2.ScoreReply] = []
        self.breaks = False
        self.leaves = False
        self.stream = ScoreStream(self.pipeline, self._read(), self._write)
        self.served = asyncio.create_task(self.stream.serve())

    def send(self, *requests: teacher_pb2.ScoreRequest | None) -> None:
        for each in requests:
            self.requests.put_nowait(each)

    async def _read(self) -> AsyncIterator[teacher_pb2.ScoreRequest]:
        while (one := await self.requests.get()) is not None:
            yield one

    async def _write(self, reply: teacher_pb2.ScoreReply) -> None:
        await asyncio.sleep(0)
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
