"""A client without think time: streams with a window of open requests each."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import grpc

from cluster.bench.service.replay import Recording
from protos import teacher_pb2, teacher_pb2_grpc
from protos.handshake import handshake_metadata
from trainer.teacher_client.streams import CHANNEL_OPTIONS


@dataclass(frozen=True, kw_only=True)
class Load:
    """Amount of requests."""

    num_streams: int
    window: int
    """Open requests of one stream."""
    seconds: float = 0.0
    """Duration; 0: until num_requests are answered."""
    num_requests: int = 0
    """Of all streams together, if seconds is 0."""


@dataclass
class LoadResult:
    """Counts and times of the replies."""

    seconds: float = 0.0
    per_stream: list[int] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    @property
    def exchanges_per_s(self) -> float:
        """Requests answered in a second, of all streams together."""
        return sum(self.per_stream) / self.seconds


def send_load(address: str, recording: Recording, load: Load) -> LoadResult:
    """Put the load on the server at the address, and wait for all answers.

    Raises:
        RuntimeError: if a request was not answered with a block.
    """
    return asyncio.run(_send_load(address, recording, load))


def abandon(address: str, recording: Recording, load: Load) -> None:
    """Fill the window of every stream, and disconnect before the answers."""
    asyncio.run(_abandon(address, recording, load))


async def _abandon(address: str, recording: Recording, load: Load) -> None:
    channels = await _connect(address, load.num_streams)
    calls = [_call(channel, recording) for channel in channels]
    request = teacher_pb2.ScoreRequest.FromString(recording.requests[0])
    for call in calls:
        for number in range(load.window):
            request.request_id = number
            await call.write(request)
    for call in calls:
        call.cancel()
    await asyncio.gather(*(channel.close() for channel in channels))


async def _connect(address: str, number: int) -> list[grpc.aio.Channel]:
    # One channel per stream, as students have: they would share one connection otherwise.
    options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(number)]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    return channels


def _call(channel: grpc.aio.Channel, recording: Recording) -> Any:
    metadata = handshake_metadata(recording.description)
    return teacher_pb2_grpc.TeacherStub(channel).Score(metadata=metadata)


async def _send_load(address: str, recording: Recording, load: Load) -> LoadResult:
    result = LoadResult(per_stream=[0] * load.num_streams)
    channels = await _connect(address, load.num_streams)
    start_s = time.perf_counter()
    await asyncio.gather(
        *(
            _stream(channel, recording, load, result, number, start_s)
            for number, channel in enumerate(channels)
        )
    )
    result.seconds = time.perf_counter() - start_s
    await asyncio.gather(*(channel.close() for channel in channels))
    return result


async def _stream(
    channel: grpc.aio.Channel,
    recording: Recording,
    load: Load,
    result: LoadResult,
    number: int,
    start_s: float,
) -> None:
    requests = [teacher_pb2.ScoreRequest.FromString(it) for it in recording.requests]
    call = _call(channel, recording)
    sent_s: dict[int, float] = {}
    share = load.num_requests // load.num_streams
    sent = 0

    def goes_on() -> bool:
        if load.seconds:
            return time.perf_counter() - start_s < load.seconds
        return sent < share

    async def send() -> None:
        nonlocal sent
        request = requests[(number + sent) % len(requests)]
        # The recorded reply of a request is found by its id modulo the number of requests.
        request.request_id = sent * len(requests) + (number + sent) % len(requests)
        sent_s[request.request_id] = time.perf_counter()
        sent += 1
        await call.write(request)

    while goes_on() or sent_s:
        while len(sent_s) < load.window and goes_on():
            await send()
        if not sent_s:
            break
        reply = await call.read()
        if not isinstance(reply, teacher_pb2.ScoreReply) or not reply.block:
            raise RuntimeError(f"a reply must hold a block, got {reply}.")
        result.latencies_s.append(time.perf_counter() - _sent(sent_s, reply.request_id))
        result.per_stream[number] += 1
    await call.done_writing()


def _sent(sent_s: dict[int, float], request_id: int) -> float:
    # The bare server replies with recorded ids: count such a reply for any open request.
    key = request_id if request_id in sent_s else next(iter(sent_s))
    return sent_s.pop(key)
