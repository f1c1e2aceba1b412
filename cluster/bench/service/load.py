"""A client that asks as fast as it is answered: streams with a window of open requests each."""

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
    """How much is asked."""

    num_streams: int
    window: int
    """Open requests of one stream."""
    seconds: float = 0.0
    """How long; or, if 0:"""
    num_requests: int = 0
    """how many, of all streams together."""


@dataclass
class Answered:
    """What came back."""

    seconds: float = 0.0
    per_stream: list[int] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    @property
    def exchanges_per_s(self) -> float:
        """Requests answered in a second, of all streams together."""
        return sum(self.per_stream) / self.seconds


def ask(address: str, recording: Recording, load: Load) -> Answered:
    """Put the load on the server at the address.

    Raises:
        RuntimeError: if a request was not answered with a block.
    """
    return asyncio.run(_ask(address, recording, load))


def leave(address: str, recording: Recording, load: Load) -> None:
    """Fill the window of every stream, and go without the answers."""
    asyncio.run(_leave(address, recording, load))


async def _leave(address: str, recording: Recording, load: Load) -> None:
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


async def _ask(address: str, recording: Recording, load: Load) -> Answered:
    answered = Answered(per_stream=[0] * load.num_streams)
    channels = await _connect(address, load.num_streams)
    start_s = time.perf_counter()
    await asyncio.gather(
        *(
            _stream(channel, recording, load, answered, number, start_s)
            for number, channel in enumerate(channels)
        )
    )
    answered.seconds = time.perf_counter() - start_s
    await asyncio.gather(*(channel.close() for channel in channels))
    return answered


async def _stream(
    channel: grpc.aio.Channel,
    recording: Recording,
    load: Load,
    answered: Answered,
    number: int,
    start_s: float,
) -> None:
    requests = [teacher_pb2.ScoreRequest.FromString(it) for it in recording.requests]
    call = _call(channel, recording)
    sent_s: dict[int, float] = {}
    share = load.num_requests // load.num_streams
    asked = 0

    def goes_on() -> bool:
        if load.seconds:
            return time.perf_counter() - start_s < load.seconds
        return asked < share

    async def send() -> None:
        nonlocal asked
        request = requests[(number + asked) % len(requests)]
        # The recorded reply of a request is found by its id modulo the number of requests.
        request.request_id = asked * len(requests) + (number + asked) % len(requests)
        sent_s[request.request_id] = time.perf_counter()
        asked += 1
        await call.write(request)

    while goes_on() or sent_s:
        while len(sent_s) < load.window and goes_on():
            await send()
        if not sent_s:
            break
        reply = await call.read()
        if not isinstance(reply, teacher_pb2.ScoreReply) or not reply.block:
            raise RuntimeError(f"a reply must hold a block, got {reply}.")
        answered.latencies_s.append(time.perf_counter() - _sent(sent_s, reply.request_id))
        answered.per_stream[number] += 1
    await call.done_writing()


def _sent(sent_s: dict[int, float], request_id: int) -> float:
    # A bare server's recorded reply bears the recorded id: any open request is as good.
    key = request_id if request_id in sent_s else next(iter(sent_s))
    return sent_s.pop(key)
