"""Ten thousand malformed requests against a live replica: each is refused alone.

Every malformation breaks a rule of docs/wire.md for certain, whatever the numbers drawn for it, so
an answer that is no INVALID_ARGUMENT is a defect.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from protos import codec, teacher_pb2, teacher_pb2_grpc
from protos.handshake import handshake_metadata
from teacher_server.replica.request_check import RequestCheck, RequestLimits
from teacher_server.replica.service import TeacherServer
from teacher_server.scoring.description import num_token_ids
from tests.support.fake_teacher import DESCRIPTION, VOCAB, FakeTeacher, described, rows_after

MAX_TOKENS, MAX_ENTITIES, MAX_WORDS = 16, 8, 3
ALL_COLUMNS = described(
    max_tokens=MAX_TOKENS,
    max_entities=MAX_ENTITIES,
    max_words=MAX_WORDS,
    num_entities=50,
    num_words=5,
    min_temperature=0.5,
    max_temperature=4.0,
)
NUM_IDS = {"token": num_token_ids(DESCRIPTION), "entity": 50, "word": 5}
METADATA = handshake_metadata(DESCRIPTION)
INT32 = np.iinfo(np.int32)
FIELDS = (
    *("range_counts", "range_starts", "range_lengths"),
    *(f"{column}_{part}" for column in NUM_IDS for part in ("ids", "lengths")),
)
Request = teacher_pb2.ScoreRequest
Malform = Callable[[np.random.Generator, Request], None]


def valid_request(rng: np.random.Generator, request_id: int) -> Request:
    number = int(rng.integers(1, 5))
    lengths = {
        "token": rng.integers(1, MAX_TOKENS + 1, number),
        "entity": rng.integers(0, MAX_ENTITIES + 1, number),
        "word": rng.integers(0, MAX_WORDS + 1, number),
    }
    request = Request(
        request_id=request_id,
        compression=teacher_pb2.Compression(top_k=int(rng.integers(0, 13)), values="FLOAT32"),
        run_id=str(rng.choice(["", "a", "Run_1.b-c", "r" * 64])),
        priority=int(rng.integers(0, 2)),  # type: ignore[arg-type]
    )
    write_ranges(request, [some_ranges(rng, int(length)) for length in lengths["token"]])
    for column, length_B in lengths.items():
        write(request, f"{column}_lengths", length_B)
        write(request, f"{column}_ids", rng.integers(0, NUM_IDS[column], length_B.sum()))
    return request


def read(request: Request, field: str) -> np.ndarray:
    return np.frombuffer(getattr(request, field), "<i4").astype(np.int64)


def write(request: Request, field: str, values: Any) -> None:
    setattr(request, field, np.asarray(values).astype("<i4").tobytes())


def some_ranges(rng: np.random.Generator, num_tokens: int) -> np.ndarray:
    """One to three disjoint ranges of a sequence, int64 [ranges, 2]: starts and ends."""
    number = int(rng.integers(1, min(3, (num_tokens + 1) // 2) + 1))
    return np.sort(rng.choice(num_tokens + 1, 2 * number, replace=False)).reshape(-1, 2)


def write_ranges(request: Request, ranges: list[np.ndarray]) -> None:
    start_R, end_R = np.concatenate(ranges).T
    write(request, "range_counts", [len(each) for each in ranges])
    write(request, "range_starts", start_R)
    write(request, "range_lengths", end_R - start_R)


def read_ranges(request: Request) -> list[np.ndarray]:
    """What `write_ranges` wrote."""
    start_R, length_R = read(request, "range_starts"), read(request, "range_lengths")
    both = np.stack([start_R, start_R + length_R], axis=1)
    return np.split(both, np.cumsum(read(request, "range_counts"))[:-1])


def anything_but(rng: np.random.Generator, low: int, high: int) -> int:
    """An int32 outside [low, high), near it or anywhere."""
    near = [low - 1, high, -1, INT32.min, INT32.max, int(rng.integers(high, INT32.max))]
    return int(rng.choice([value for value in near if not low <= value < high]))


def torn_column(rng: np.random.Generator, request: Request) -> None:
    field = str(rng.choice(FIELDS))
    setattr(request, field, getattr(request, field) + rng.bytes(int(rng.integers(1, 4))))


def foreign_id(rng: np.random.Generator, request: Request) -> None:
    column = str(rng.choice([it for it in NUM_IDS if getattr(request, f"{it}_ids")]))
    ids = read(request, f"{column}_ids")
    ids[rng.integers(len(ids))] = anything_but(rng, 0, NUM_IDS[column])
    write(request, f"{column}_ids", ids)


def wrong_length(rng: np.random.Generator, request: Request) -> None:
    field = str(rng.choice([f"{column}_lengths" for column in NUM_IDS]))
    lengths = read(request, field)
    index = rng.integers(len(lengths))
    lengths[index] = anything_but(rng, int(lengths[index]), int(lengths[index]) + 1)
    write(request, field, lengths)


def wrong_range(rng: np.random.Generator, request: Request) -> None:
    """Move a range's start, or its end alone, out of the room that its neighbours leave it."""
    ranges, tokens = read_ranges(request), read(request, "token_lengths")
    sequence = int(rng.integers(len(ranges)))
    mine = ranges[sequence]
    at = int(rng.integers(len(mine)))
    start, end = map(int, mine[at])
    free = int(mine[at - 1, 1]) if at else 0
    most = int(mine[at + 1, 0]) if at + 1 < len(mine) else int(tokens[sequence])
    place = sum(map(len, ranges[:sequence])) + at
    if rng.integers(2):
        field, value = "range_starts", anything_but(rng, free, most - (end - start) + 1)
    else:
        field, value = "range_lengths", anything_but(rng, 1, most - start + 1)
    values = read(request, field)
    values[place] = value
    write(request, field, values)


def example_too_many(rng: np.random.Generator, request: Request) -> None:
    field = str(rng.choice([name for name in FIELDS if name.endswith("lengths")]))
    write(request, field, [*read(request, field), 1])


def example_too_few(rng: np.random.Generator, request: Request) -> None:
    field = str(rng.choice([name for name in FIELDS if name.endswith("lengths")]))
    write(request, field, read(request, field)[:-1])


def ids_without_length(rng: np.random.Generator, request: Request) -> None:
    field = str(rng.choice([f"{column}_ids" for column in NUM_IDS]))
    write(request, field, [*read(request, field), *[0] * int(rng.integers(1, 9))])


def missing_column(rng: np.random.Generator, request: Request) -> None:
    column = str(rng.choice(list(NUM_IDS)))
    request.ClearField(f"{column}_ids")  # type: ignore[arg-type]
    request.ClearField(f"{column}_lengths")  # type: ignore[arg-type]


def nothing_at_all(rng: np.random.Generator, request: Request) -> None:
    request.CopyFrom(Request(request_id=request.request_id))


def noise(rng: np.random.Generator, request: Request) -> None:
    # That all columns agree by chance has odds of less than 2^-32.
    for field in FIELDS:
        setattr(request, field, rng.bytes(4 * int(rng.integers(1, 40))))


def too_many_examples(rng: np.random.Generator, request: Request) -> None:
    ones = [1] * int(rng.integers(1025, 1100))
    for field in ("range_counts", "range_lengths", "token_lengths", "token_ids"):
        write(request, field, ones)
    write(request, "range_starts", [0] * len(ones))


def unknown_values(rng: np.random.Generator, request: Request) -> None:
    request.compression.values = anything_but(rng, 1, 4)  # type: ignore[assignment]


def impossible_top_p(rng: np.random.Generator, request: Request) -> None:
    values = [math.nan, math.inf, -math.inf, -1e-6, 1.001, float(rng.uniform(2, 1e9))]
    request.compression.top_p = float(rng.choice(values))


def samples_beside_a_cut(rng: np.random.Generator, request: Request) -> None:
    request.compression.samples = int(rng.integers(1, 1 << 32))
    request.compression.top_k = int(rng.integers(1, 1 << 32))


def impossible_temperature(rng: np.random.Generator, request: Request) -> None:
    values = [math.nan, math.inf, -math.inf, -1.0, 1e-30, 0.49, 4.01, float(rng.uniform(5, 1e9))]
    request.temperature = float(rng.choice(values))


def impossible_run_id(rng: np.random.Generator, request: Request) -> None:
    names = ["a b", "run\n", "a/b", "(other)", "ü", "\x00", "a" * 65, "a" * 100_000]
    # numpy's strings have no zero at their end.
    request.run_id = names[rng.integers(len(names))]


def unknown_priority(rng: np.random.Generator, request: Request) -> None:
    request.priority = anything_but(rng, 0, 2)  # type: ignore[assignment]


MALFORMATIONS: tuple[Malform, ...] = (
    *(torn_column, foreign_id, wrong_length, wrong_range, example_too_many, example_too_few),
    *(ids_without_length, missing_column, nothing_at_all, noise, too_many_examples),
    *(unknown_values, impossible_top_p, samples_beside_a_cut, impossible_temperature),
    *(impossible_run_id, unknown_priority),
)


def malformed_requests(seed: int, number: int) -> list[Request]:
    rng = np.random.default_rng(seed)
    requests = [valid_request(rng, request_id) for request_id in range(number)]
    for request in requests:
        MALFORMATIONS[request.request_id % len(MALFORMATIONS)](rng, request)
    return requests


async def one_by_one(requests: list[Request]) -> AsyncIterator[Request]:
    for request in requests:
        yield request


async def refused(stub: Any, number: int) -> Counter[int]:
    """Send so many malformed requests on one stream; how often each id was refused."""
    answers: Counter[int] = Counter()
    async for reply in stub.Score(one_by_one(malformed_requests(0, number)), metadata=METADATA):
        name = MALFORMATIONS[reply.request_id % len(MALFORMATIONS)].__name__
        assert reply.HasField("error"), f"{name} of request {reply.request_id} was scored"
        assert reply.error.code == teacher_pb2.ScoreError.INVALID_ARGUMENT, reply.error
        assert reply.error.message
        answers[reply.request_id] += 1
    return answers


async def healthy(stub: Any, seed: int, done: asyncio.Event) -> int:
    """Ask for rows until the others are done, and check every one of them; how many replies."""
    rng = np.random.default_rng(seed)
    call = stub.Score(metadata=METADATA)
    num_replies = 0
    while not done.is_set():
        request = valid_request(rng, num_replies)
        request.compression.top_k = 0
        await call.write(request)
        reply = await call.read()
        assert reply.request_id == request.request_id
        assert_rows_of(request, reply)
        num_replies += 1
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK
    return num_replies


def assert_rows_of(request: Request, reply: teacher_pb2.ScoreReply) -> None:
    num_rows = int(read(request, "range_lengths").sum())
    rows = codec.decode(reply.block, num_rows=num_rows, vocab_size=VOCAB)
    ids, ends = read(request, "token_ids"), np.cumsum(read(request, "token_lengths"))
    wanted = [
        ids_L[start:end]
        for ids_L, ranges in zip(np.split(ids, ends[:-1]), read_ranges(request), strict=True)
        for start, end in ranges
    ]
    expected = rows_after(torch.from_numpy(np.concatenate(wanted)))
    np.testing.assert_allclose(rows.log_probs_E.reshape(-1, VOCAB), expected.numpy(), atol=1e-5)


def with_server(story: Callable[[str], Any]) -> None:
    async def bounded() -> None:
        server = TeacherServer(FakeTeacher(ALL_COLUMNS), replica_id="replica-1")
        port = await server.start("127.0.0.1")
        try:
            await asyncio.wait_for(story(f"127.0.0.1:{port}"), 240)
        finally:
            await server.drain(0.2)

    asyncio.run(bounded())


@pytest.mark.parametrize("number", [1_000, pytest.param(10_000, marks=pytest.mark.everything)])
def test_service_refuses_each_malformed_request_and_serves_the_others(number: int) -> None:
    async def story(address: str) -> None:
        done = asyncio.Event()
        async with grpc.aio.insecure_channel(address) as channel:
            stub = teacher_pb2_grpc.TeacherStub(channel)
            beside = [asyncio.create_task(healthy(stub, seed, done)) for seed in (1, 2, 3)]
            answers = await refused(stub, number)
            done.set()
            assert answers == Counter(range(number))
            assert all(num_replies > 0 for num_replies in await asyncio.gather(*beside))

    with_server(story)


def test_service_ends_the_stream_of_bytes_that_are_no_request_alone() -> None:
    async def story(address: str) -> None:
        done = asyncio.Event()
        async with grpc.aio.insecure_channel(address) as channel:
            beside = asyncio.create_task(healthy(teacher_pb2_grpc.TeacherStub(channel), 1, done))
            method = f"/{teacher_pb2.DESCRIPTOR.services_by_name['Teacher'].full_name}/Score"
            for seed in range(20):
                call = channel.stream_stream(method)(metadata=METADATA)
                # Field number 0 is in no message.
                await call.write(b"\0" + np.random.default_rng(seed).bytes(40))
                with pytest.raises(grpc.aio.AioRpcError):
                    await call.read()
            done.set()
            assert await beside > 0

    with_server(story)


@pytest.mark.parametrize("malform", MALFORMATIONS, ids=lambda it: it.__name__)
def test_malformation_changes_a_request_whose_original_is_fine(malform: Malform) -> None:
    # The requests above differ from good ones by their malformation alone.
    rng = np.random.default_rng(5)
    for request_id in range(50):
        request = valid_request(rng, request_id)
        RequestCheck(ALL_COLUMNS, RequestLimits())(request)
        malform(rng, request)
        with pytest.raises(ValueError, match=r"must"):
            RequestCheck(ALL_COLUMNS, RequestLimits())(request)
