from __future__ import annotations

import asyncio
import threading

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster.launch.ports import free_port
from protos import codec, teacher_pb2, teacher_pb2_grpc, version
from protos.handshake import (
    TEMPERATURE,
    VOCABULARY_DIGEST,
    WEIGHTS_DIGEST,
    WIRE_VERSION,
)
from teacher_server.replica import score_stream, service
from teacher_server.replica.request_check import RequestLimits
from teacher_server.replica.rpc import new_server
from teacher_server.replica.security import ServerSecurity
from teacher_server.replica.service import TeacherServer
from teacher_server.replica.worker import Stage
from tests.support.fake_teacher import DESCRIPTION, VOCAB, FakeTeacher, described, rows_after
from tests.support.replica_calls import (
    INVALID,
    METADATA,
    check_request,
    int32,
    iter_async,
    one_range,
    poll,
    request,
    run,
    running,
    score,
)
from trainer.data.action_form import ACTIONS, NUM_ACTIONS
from trainer.security.credentials import NO_SECURITY

NO_TOKENS = {"token_ids": b"", "token_lengths": b""}

BAD_FIELDS: dict[str, dict[str, bytes]] = {
    "token_ids must be int32": {"token_ids": b"\1\0\0"},
    "token_lengths must be int32": {"token_lengths": b"\1\0\0\0\1"},
    "token_lengths must have 1 entries, one per sequence": one_range((1, 1)),
    "range_counts must be at least 1 for each of at least one sequence, got none": {
        "token_ids": b"",
        "token_lengths": b"",
        **one_range(),
    },
    "range_counts must be at least 1 for each of at least one sequence, got 0": {
        "range_counts": int32(0, 2)
    },
    "an entry for each of the 3 ranges, got 2 and 2": {"range_counts": int32(1, 2)},
    "an entry for each of the 2 ranges, got 2 and 1": {"range_lengths": int32(1)},
    "range_starts must be int32": {"range_starts": b"\1\0\0"},
    "entity_lengths must have 0 entries": {"entity_lengths": int32(0, 0)},
    "must sum to the 1 entity_ids, got 0": {"entity_ids": int32(4)},
    "must sum to the 5 token_ids, got 6": {"token_lengths": int32(3, 3)},
    "must be in [1, 16], got -1..6": {"token_lengths": int32(-1, 6)},
    "must be in [1, 16], got 0..5": {"token_lengths": int32(0, 5)},
    "must be in [1, 16], got 17..17": {
        "token_ids": int32(*[1] * 17),
        "token_lengths": int32(17),
        **one_range((0, 1)),
    },
    "must be in [0, 9), got 1..9": {"token_ids": int32(1, 2, 3, 4, 9)},
    "must be in [0, 9), got -1..5": {"token_ids": int32(-1, 2, 3, 4, 5)},
    "of at least 1 row each, in order, disjoint and within its 2 tokens, got [1, 1) after 0": (
        one_range((1, 0), (1, 2))
    ),
    "within its 3 tokens, got [1, 4) after 0": one_range((1, 1), (1, 3)),
    "within its 3 tokens, got [-1, 1) after 0": one_range((1, 1), (-1, 2)),
    "within its 3 tokens, got [1, 3) after 2": {
        "range_counts": int32(1, 2),
        "range_starts": int32(1, 0, 1),
        "range_lengths": int32(1, 2, 2),
    },
}


def test_score_answers_with_the_rows_of_the_last_positions() -> None:
    async def scenario() -> None:
        async with running(FakeTeacher()) as (_, stub):
            replies = await score(stub, [request(7, top_k=4)])
            rows = codec.decode(replies[7].block, num_rows=3, vocab_size=VOCAB)
            best = rows_after(torch.tensor([2, 4, 5])).topk(4).indices.sort(-1).values
            assert rows.ids_E.tolist() == best.flatten().tolist()
            assert replies[7].forward_s > 0

    run(scenario)


def test_score_of_malformed_requests_refuses_them_alone() -> None:
    async def scenario() -> None:
        async with running(FakeTeacher()) as (_, stub):
            requests = []
            for i, fields in enumerate(BAD_FIELDS.values()):
                requests += [request(2 * i), request(2 * i + 1, fields=fields)]
            requests.append(request(1000, values=0))
            replies = await score(stub, requests)
            for i, message in enumerate(BAD_FIELDS):
                assert codec.decode(replies[2 * i].block, num_rows=3, vocab_size=VOCAB)
                assert replies[2 * i + 1].error.code == INVALID
                assert message in replies[2 * i + 1].error.message
            assert "compression.values must be" in replies[1000].error.message
            assert (await score(stub, [request(1)]))[1].WhichOneof("outcome") == "block"

    run(scenario)


def test_stream_that_nobody_reads_ends_with_resource_exhausted_and_the_next_one_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of 1 MiB: HTTP/2 takes only a few of a stream that is not read.
    block = Stage(lambda _: bytes(1 << 20), "test", is_short=lambda _: True)
    monkeypatch.setattr(service, "encoding_stage", lambda: block)
    # Room for one reply.
    monkeypatch.setattr(score_stream, "MAX_REPLY_BYTES", 5000)
    monkeypatch.setattr(score_stream, "NOT_READ_S", 0.05)

    async def scenario() -> None:
        async with running(FakeTeacher()) as (server, stub):
            silent = stub.Score(iter_async([request(i) for i in range(60)]), metadata=METADATA)
            await poll(lambda: server.counters.blocks > 0)
            # At first they may find room beside it.
            while server.counters.streams:
                assert (await score(stub, [request(7)])).keys() == {7}
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                replies = [reply.request_id async for reply in silent]
                raise AssertionError(f"all {len(replies)} replies came")
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "replies must be read while others wait" in str(refused.value.details())

    run(scenario)


def test_check_request_beyond_its_limits_is_refused() -> None:
    small = RequestLimits(max_examples=1)
    with pytest.raises(ValueError, match="at most 1 entries, got 2"):
        check_request(request(1), DESCRIPTION, small)
    with pytest.raises(ValueError, match="at most 2 rows, got 3"):
        check_request(request(1), DESCRIPTION, RequestLimits(max_rows=2))
    with pytest.raises(ValueError, match="in 400 bytes, got 3 rows that may need 540"):
        check_request(request(1), DESCRIPTION, RequestLimits(max_reply_bytes=400))
    assert check_request(request(1, top_k=8), DESCRIPTION, RequestLimits(max_reply_bytes=400))


def test_check_request_of_a_recommendation_allows_no_entity_and_one_row() -> None:
    teacher = described(kind="recommendation", max_tokens=0, max_entities=16, num_entities=50)
    one = request(
        1,
        top_k=99,
        fields={
            **NO_TOKENS,
            "entity_ids": int32(49),
            "entity_lengths": int32(0, 1),
            **one_range((0, 1), (0, 1)),
        },
    )
    work = check_request(one, teacher, RequestLimits())
    assert [len(example.entities) for example in work.inputs] == [0, 1]
    assert work.max_entries == 2 * teacher.num_items
    one.range_lengths = int32(1, 2)
    with pytest.raises(ValueError, match=r"within its 1 tokens \(1 for a .* got \[0, 2\) after 0"):
        check_request(one, teacher, RequestLimits())


def test_check_request_takes_action_tokens_of_a_teacher_that_reads_them_alone() -> None:
    pad_id = DESCRIPTION.first_item_id + DESCRIPTION.num_items + NUM_ACTIONS
    rec, gen, pad = (
        request(1, fields={"token_ids": int32(1, 2, 3, 4, token)})
        for token in (pad_id - 2, pad_id - 1, pad_id)
    )
    reads = described()
    reads.capabilities.append(ACTIONS)
    for each in (rec, gen):
        assert check_request(each, reads, RequestLimits()).num_rows == 3
        with pytest.raises(ValueError, match="token_ids must be in"):
            check_request(each, DESCRIPTION, RequestLimits())
    with pytest.raises(ValueError, match="token_ids must be in"):
        check_request(pad, reads, RequestLimits())


WITH_WORDS = described(
    kind="recommendation",
    max_tokens=0,
    max_entities=16,
    max_words=3,
    num_entities=50,
    num_words=5,
)


def words_request(ids: bytes, lengths: bytes) -> teacher_pb2.ScoreRequest:
    fields = {"entity_ids": int32(49), "entity_lengths": int32(0, 1)}
    words = {"word_ids": ids, "word_lengths": lengths}
    rows = one_range((0, 1), (0, 1))
    return request(1, fields={**NO_TOKENS, **fields, **rows, **words})


def test_check_request_gives_each_sequence_its_ranges() -> None:
    several = {
        "range_counts": int32(2, 1),
        "range_starts": int32(0, 1, 2),
        "range_lengths": int32(1, 1, 1),
    }
    work = check_request(request(1, fields=several), DESCRIPTION, RequestLimits())
    assert [each.ranges for each in work.inputs] == [((0, 1), (1, 1)), ((2, 1),)]
    assert work.num_rows == 3


@pytest.mark.parametrize(
    "fields",
    [
        one_range((0, 1), (1, 2)),
        {
            "range_counts": int32(2, 1),
            "range_starts": int32(0, 1, 1),
            "range_lengths": int32(1, 1, 2),
        },
    ],
    ids=["not at the end", "two of a sequence"],
)
def test_check_request_of_a_teacher_without_ranges_takes_one_at_the_end(
    fields: dict[str, bytes],
) -> None:
    teacher = described()
    del teacher.capabilities[:]
    assert check_request(request(1), teacher, RequestLimits()).num_rows == 3
    with pytest.raises(ValueError, match="without the capability ranges must be one a sequence"):
        check_request(request(1, fields=fields), teacher, RequestLimits())


def test_check_request_gives_each_example_its_words() -> None:
    one = words_request(int32(4, 0, 4), int32(3, 0))
    work = check_request(one, WITH_WORDS, RequestLimits())
    assert [example.words.tolist() for example in work.inputs] == [[4, 0, 4], []]
    plain = check_request(request(1), DESCRIPTION, RequestLimits())
    assert [example.words.tolist() for example in plain.inputs] == [[], []]


@pytest.mark.parametrize(
    ("ids", "lengths", "expected"),
    [
        (int32(), int32(), "word_lengths must have 2 entries, .* got 0"),
        (int32(1), int32(1), "word_lengths must have 2 entries, .* got 1"),
        (int32(1, 2, 3, 4), int32(4, 0), r"word_lengths must be in \[0, 3\], got 0\.\.4"),
        (int32(1), int32(2, -1), r"word_lengths must be in \[0, 3\], got -1\.\.2"),
        (int32(1, 2), int32(1, 0), "must sum to the 2 word_ids, got 1"),
        (int32(5), int32(1, 0), r"word_ids must be in \[0, 5\), got 5\.\.5"),
        (int32(-1), int32(1, 0), r"word_ids must be in \[0, 5\), got -1\.\.-1"),
        (b"\1", int32(1, 0), "word_ids must be int32"),
    ],
)
def test_check_request_with_bad_words_names_the_field(
    ids: bytes, lengths: bytes, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        check_request(words_request(ids, lengths), WITH_WORDS, RequestLimits())


def test_check_request_with_words_for_a_teacher_that_takes_none_is_refused() -> None:
    teacher = described(WITH_WORDS, max_words=0, num_words=0)
    for ids, lengths in ((int32(1), int32(1, 0)), (int32(), int32(0, 0)), (int32(1), int32())):
        with pytest.raises(ValueError, match="word"):
            check_request(words_request(ids, lengths), teacher, RequestLimits())


def test_score_with_another_vocabulary_or_version_is_refused_with_both_values() -> None:
    async def scenario() -> None:
        async with running(FakeTeacher()) as (_, stub):
            cases = [
                (((VOCABULARY_DIGEST, "vocabulary-b"), METADATA[1]), "vocabulary-"),
                ((METADATA[0], (WIRE_VERSION, "99")), "99"),
                ((METADATA[1],), "got none"),
                ((*METADATA, (WEIGHTS_DIGEST, "weights-b")), "weights-"),
                ((*METADATA, (TEMPERATURE, "2.0")), "2.0"),
            ]
            for metadata, value in cases:
                # Nothing is sent: a write that meets the end of the stream hides its status.
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await score(stub, [], metadata)
                assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
                assert value in str(refused.value.details())
            agreed = (*METADATA, (WEIGHTS_DIGEST, "weights-a"), (TEMPERATURE, "1"))
            assert 1 in await score(stub, [request(1)], agreed)

    run(scenario)


def test_describe_returns_the_description_of_this_replica() -> None:
    async def scenario() -> None:
        async with running(FakeTeacher()) as (_, stub):
            told = await stub.Describe(teacher_pb2.DescribeRequest())
            assert (told.kind, told.replica_id, told.vocab_size) == ("dialogue", "replica-1", VOCAB)
            assert told.wire_version == version.WIRE_VERSION
            assert told.oldest_wire_version == version.OLDEST_WIRE_VERSION
            assert told.weights_digest == "weights-a"

    run(scenario)


def test_score_after_a_failed_forward_replies_internal_and_lives_on() -> None:
    async def scenario() -> None:
        teacher = FakeTeacher()
        async with running(teacher) as (server, stub):
            teacher.fails = True
            reply = (await score(stub, [request(1)]))[1]
            assert reply.error.code == teacher_pb2.ScoreError.INTERNAL
            assert "out of memory" in reply.error.message
            teacher.fails = False
            assert (await score(stub, [request(2)]))[2].WhichOneof("outcome") == "block"
            assert not server.problem

    run(scenario)


def test_score_joins_the_requests_of_several_streams() -> None:
    async def scenario() -> None:
        teacher = FakeTeacher()
        teacher.gate = threading.Event()
        async with running(teacher) as (server, stub):
            first = asyncio.create_task(score(stub, [request(0)]))
            await asyncio.to_thread(teacher.started.wait, 10)
            others = [asyncio.create_task(score(stub, [request(i)])) for i in (1, 2, 3)]
            await poll(lambda: server.batcher.num_waiting == 3)
            assert server.unused_s == 0.0
            teacher.gate.set()
            await asyncio.gather(first, *others)
            await poll(lambda: server.unused_s > 0.0)
            assert teacher.batches == [[3, 2], [3, 3, 3, 2, 2, 2]]

    run(scenario)


def test_score_of_a_caller_who_leaves_is_taken_out_of_the_queue() -> None:
    async def scenario() -> None:
        teacher = FakeTeacher()
        teacher.gate = threading.Event()
        async with running(teacher) as (server, stub):
            first = asyncio.create_task(score(stub, [request(0)]))
            await asyncio.to_thread(teacher.started.wait, 10)
            leaver = stub.Score(iter_async([request(1)]), metadata=METADATA)
            reading = asyncio.ensure_future(leaver.read())
            await poll(lambda: server.batcher.num_waiting == 1)
            leaver.cancel()
            await asyncio.wait([reading])
            await poll(lambda: server.batcher.num_waiting == 0)
            teacher.gate.set()
            await first
            assert 2 in await score(stub, [request(2)])
            assert len(teacher.batches) == 2

    run(scenario)


def test_score_of_a_caller_who_does_not_read_waits_and_stops_nobody_else() -> None:
    async def scenario() -> None:
        async with running(FakeTeacher()) as (_, stub):
            call = stub.Score(metadata=METADATA)

            async def send() -> None:
                for number in range(150):
                    await call.write(request(number))
                await call.done_writing()

            sender = asyncio.create_task(send())
            for number in range(3):
                assert number in await score(stub, [request(number)])
            assert sorted([reply.request_id async for reply in call]) == list(range(150))
            await sender

    run(scenario)


def test_check_request_that_is_too_large_or_draws_too_much_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 40 bytes, got"):
        check_request(request(1), DESCRIPTION, RequestLimits(max_request_bytes=40))
    one = request(1)
    one.traceparent = b"x" * (5 << 20)
    with pytest.raises(ValueError, match="at most 4194304 bytes, got"):
        check_request(one, DESCRIPTION, RequestLimits())
    teacher = described(max_tokens=64)
    tokens = {"token_ids": int32(*[1] * 64), "token_lengths": int32(64)}
    many = request(2, fields={**tokens, **one_range((0, 64))})
    many.compression.Clear()
    many.compression.values, many.compression.samples = teacher_pb2.UINT8, 1 << 16
    with pytest.raises(ValueError, match="at most 2097152 draws, got 64 rows of 65536"):
        check_request(many, teacher, RequestLimits())


def test_score_with_more_draws_than_a_row_may_have_is_refused() -> None:
    one = request(1)
    one.compression.Clear()
    one.compression.values = teacher_pb2.UINT8
    one.compression.samples = (1 << 16) + 1
    with pytest.raises(ValueError, match="samples must be at most 65536, got 65537"):
        check_request(one, DESCRIPTION, RequestLimits())
    one.compression.samples = 8
    one.compression.seed = (1 << 64) - 1
    work = check_request(one, DESCRIPTION, RequestLimits())
    drawn = work.compression
    assert (drawn.samples, drawn.seed, work.max_entries) == (8, (1 << 64) - 1, 24)
    one.compression.top_k = 3
    with pytest.raises(ValueError, match="samples must stand alone"):
        check_request(one, DESCRIPTION, RequestLimits())


def test_drain_answers_what_was_accepted_and_sends_callers_away() -> None:
    async def scenario() -> None:
        teacher = FakeTeacher()
        teacher.gate = threading.Event()
        async with running(teacher) as (server, stub):
            call = stub.Score(metadata=METADATA)
            await call.write(request(5))
            await asyncio.to_thread(teacher.started.wait, 10)
            drain = asyncio.create_task(server.drain(10))
            await asyncio.wait([drain], timeout=0.1)
            assert not drain.done()
            teacher.gate.set()
            reply = await call.read()
            assert isinstance(reply, teacher_pb2.ScoreReply)
            assert reply.request_id == 5
            assert reply.WhichOneof("outcome") == "block"
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await call.read()
            assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
            await drain
            assert server.problem == "its gRPC server is not up"

    run(scenario)


def test_server_answers_health_checks_until_it_drains() -> None:
    async def scenario() -> None:
        server = TeacherServer(FakeTeacher(), replica_id="replica-1")
        port = await server.start("127.0.0.1")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            check = health_pb2.HealthCheckRequest(service="conkd.v1.Teacher")
            reply = await stub.Check(check)  # type: ignore[attr-defined]
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
            assert not server.problem
        await server.drain(0.2)
        assert server.problem == "its gRPC server is not up"

    run(scenario)


async def block_once_there_is_room(stub: teacher_pb2_grpc.TeacherStub) -> bool:
    """Whether a request is answered; a caller may learn of its end before its place is free."""
    while True:
        try:
            return (await score(stub, [request(9)]))[9].WhichOneof("outcome") == "block"
        except grpc.aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            await asyncio.sleep(0.01)


def test_calls_beyond_the_limit_are_refused_and_those_before_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("teacher_server.replica.rpc.MAX_CALLS", 2)

    async def scenario() -> None:
        async with running(FakeTeacher()) as (_, stub):
            calls = [stub.Score(metadata=METADATA) for _ in range(2)]
            for number, call in enumerate(calls):
                await call.write(request(number))
                assert (await call.read()).request_id == number
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await score(stub, [request(9)])
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            await calls[0].done_writing()
            assert not isinstance(await calls[0].read(), teacher_pb2.ScoreReply)
            assert await block_once_there_is_room(stub)
            await calls[1].write(request(5))
            assert (await calls[1].read()).request_id == 5

    run(scenario)


def test_server_on_a_taken_port_is_refused() -> None:
    async def scenario() -> None:
        async with running(FakeTeacher()):
            taken = new_server(ServerSecurity(NO_SECURITY))
            port = taken.add_insecure_port("127.0.0.1:0")
            await taken.start()
            server = TeacherServer(FakeTeacher(), replica_id="replica-2")
            try:
                with pytest.raises(OSError, match=f"127.0.0.1:{port} must be free, got one of"):
                    await server.start("127.0.0.1", port)
            finally:
                # A server that runs at the end of Python keeps it from ending.
                await taken.stop(0)

    run(scenario)


def test_server_takes_the_first_free_port_of_a_range() -> None:
    async def scenario() -> None:
        first = free_port(in_a_row=3)
        taken = new_server(ServerSecurity(NO_SECURITY))
        assert taken.add_insecure_port(f"127.0.0.1:{first}") == first
        await taken.start()
        servers = [TeacherServer(FakeTeacher(), replica_id=f"replica-{at}") for at in range(3)]
        ports = range(first, first + 3)
        try:
            got = [await server.start("127.0.0.1", *ports) for server in servers[:2]]
            assert got == [first + 1, first + 2]
            with pytest.raises(OSError, match=r"one of 3 ports, .* must be free, got none"):
                await servers[2].start("127.0.0.1", *ports)
        finally:
            await taken.stop(0)
            for server in servers[:2]:
                await server.drain(0)

    run(scenario)
