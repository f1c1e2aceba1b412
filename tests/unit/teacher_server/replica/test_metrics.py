"""What a live replica tells of itself: its counters by hand, over HTTP and over gRPC."""

from __future__ import annotations

import asyncio
import math
import threading

import pytest

from protos import teacher_pb2
from teacher_server.replica.request_check import RequestLimits
from teacher_server.replica.runs import UNNAMED
from teacher_server.replica.score_stream import HELD_BYTES
from teacher_server.scoring.counters import ReplicaCounters
from teacher_server.scoring.device_batches import BatchLimits, score_together
from tests.support.fake_teacher import DESCRIPTION, FakeTeacher
from tests.support.replica_calls import (
    METADATA,
    check_request,
    int32,
    iter_async,
    poll,
    request,
    run,
    running,
    score,
)
from tests.support.scrapes import scrape

KIND = {"kind": "dialogue"}


def test_score_together_counts_tokens_and_padded_slots_of_its_batches() -> None:
    counters = ReplicaCounters()
    work = check_request(request(1), DESCRIPTION, RequestLimits())  # Of 2 and 3 tokens.
    limits = BatchLimits(max_examples=3)
    score_together(FakeTeacher().score, [work, work], limits, counters=counters)
    # Longest first: [3, 3, 2] and [2].
    assert (counters.batch_tokens, counters.batch_slots) == (10, 11)
    assert counters.batch_fill.total == pytest.approx(8 / 9 + 1)


def test_scrape_of_a_replica_tells_what_it_answered() -> None:
    async def scenario() -> None:
        teacher = FakeTeacher()
        async with running(teacher) as (server, stub):
            address = server.serve_metrics("127.0.0.1")
            bad = request(9, fields={"range_lengths": int32(0, 1)})
            replies = await score(stub, [request(1), request(2), bad])
            teacher.fails = True
            await score(stub, [request(3)])
            seen = await asyncio.to_thread(scrape, address)

            def total(name: str, **labels: str) -> float:
                return seen[(f"conkd_teacher_{name}", frozenset((KIND | labels).items()))]

            outcomes = ("block", "invalid", "failed", "abandoned")
            assert [total("requests_total", outcome=it) for it in outcomes] == [2, 1, 1, 0]
            assert total("positions_total") == 6
            blocks = [replies[1].block, replies[2].block]
            assert total("reply_bytes_total") == sum(map(len, blocks))
            # Of all that are valid, that on which the device failed too.
            assert total("request_bytes_total") == 3 * request(1).ByteSize()
            assert total("queue_delay_seconds_count") == 2
            assert total("queue_delay_seconds_bucket", le="+Inf") == 2
            assert total("encode_seconds_count") == 2
            assert total("forward_seconds_count") == total("rounds_total") >= 1
            waited = sum(replies[it].queue_s for it in (1, 2))
            assert total("queue_delay_seconds_sum") == pytest.approx(waited, rel=1e-5)
            # The failed round was tried too.
            assert total("batch_tokens_total") == 15
            assert total("in_flight") == total("queue_requests") == total("streams") == 0
            assert seen[("process_resident_memory_bytes", frozenset())] > 1e6

    run(scenario)


def test_stats_and_scrape_tell_what_waits_and_who_left() -> None:
    async def scenario() -> None:
        teacher = FakeTeacher()
        teacher.gate = threading.Event()
        async with running(teacher) as (server, stub):
            first = asyncio.create_task(score(stub, [request(0)]))
            await asyncio.to_thread(teacher.started.wait, 10)
            leaver = stub.Score(iter_async([request(1), request(2)]), metadata=METADATA)
            reading = asyncio.ensure_future(leaver.read())
            await poll(lambda: server.batcher.num_waiting == 2)
            told = await stub.Stats(teacher_pb2.StatsRequest())
            levels = {"streams": 2, "in_flight": 3, "waiting": 2}
            levels["waiting_bytes"] = 2 * request(1).ByteSize()
            # Each for three rows of at most twelve entries of fourteen bytes.
            levels["held_reply_bytes"] = 3 * (HELD_BYTES + 3 * (12 * 14 + 12))
            assert told.gauges.pop("oldest_wait_s") > 0
            assert (dict(told.gauges), told.counters["blocks"]) == (levels, 0)
            leaver.cancel()
            await asyncio.wait([reading])
            await poll(lambda: server.batcher.num_waiting == 0)
            assert server.batcher.queue_delay_s == 0
            teacher.gate.set()
            await first
            told = await stub.Stats(teacher_pb2.StatsRequest())
            assert set(told.gauges.values()) == {0}
            counted = {"blocks": 1, "abandoned": 2, "positions": 3, "rounds": 1, "queued": 1}
            assert {name: told.counters[name] for name in counted} == counted
            assert (told.replica_id, told.metrics_address) == ("replica-1", "")
            assert math.isfinite(told.uptime_s) and told.uptime_s > 0
            address = server.serve_metrics("127.0.0.1")
            told = await stub.Stats(teacher_pb2.StatsRequest())
            assert told.metrics_address == address

    run(scenario)


def test_a_replica_that_drained_is_scraped_no_more() -> None:
    async def scenario() -> None:
        async with running(FakeTeacher()) as (server, _):
            address = server.serve_metrics("127.0.0.1")
        with pytest.raises(OSError, match="refused"):
            await asyncio.to_thread(scrape, address)

    run(scenario)


def test_scrape_and_stats_tell_what_each_run_was_served() -> None:
    async def scenario() -> None:
        async with running(FakeTeacher()) as (server, stub):
            address = server.serve_metrics("127.0.0.1")
            mine, plain, bad = request(1), request(2), request(3)
            mine.run_id, bad.run_id = "mine-1", "no run"
            replies = await score(stub, [mine, plain, bad])
            assert "run_id must be 1 to 64 of [A-Za-z0-9._-]" in replies[3].error.message
            told = await stub.Stats(teacher_pb2.StatsRequest())
            of_mine = dict(told.runs["mine-1"].counters)
            device_s = of_mine.pop("device_s")
            assert of_mine == {
                "requests": 1,
                "positions": 3,
                "request_bytes": mine.ByteSize(),
                "reply_bytes": len(replies[1].block),
            }
            assert set(told.runs) == {"mine-1", UNNAMED}
            total_s = device_s + told.runs[UNNAMED].counters["device_s"]
            assert total_s == pytest.approx(told.counters["forward_s"])
            seen = await asyncio.to_thread(scrape, address)
            labels = frozenset((KIND | {"run": "mine-1"}).items())
            assert seen[("conkd_teacher_run_requests_total", labels)] == 1
            assert seen[("conkd_teacher_run_positions_total", labels)] == 3
            assert seen[("conkd_teacher_run_device_seconds_total", labels)] == device_s

    run(scenario)


def test_priority_that_there_is_not_is_refused_alone() -> None:
    async def scenario() -> None:
        async with running(FakeTeacher()) as (_, stub):
            low, other = request(1), request(2)
            low.priority = teacher_pb2.LOW
            other.priority = 7  # type: ignore[assignment]
            replies = await score(stub, [low, other])
            assert replies[1].WhichOneof("outcome") == "block"
            assert replies[2].error.message == "priority must be NORMAL or LOW, got 7."

    run(scenario)
