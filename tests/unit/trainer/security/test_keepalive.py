"""A peer that falls silent is noticed by keepalive, however long the stream was quiet before."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from protos import teacher_pb2, teacher_pb2_grpc
from tests.support.client_world import FakeDirectory
from tests.support.silent_link import SilentLink
from trainer.security.channels import keepalive
from trainer.teacher_client.streams import CHANNEL_OPTIONS

# Without one of its options, gRPC would notice after 60 s and more.
NOTICED_S = 20.0


# 0: at once. 2 s: several pings have gone by without data.
@pytest.mark.parametrize("quiet_s", [0.0, pytest.param(2.0, marks=pytest.mark.everything)])
def test_keepalive_ends_a_call_over_a_link_that_fell_silent(quiet_s: float) -> None:
    async def story() -> None:
        server = grpc.aio.server(
            options=[
                ("grpc.http2.min_ping_interval_without_data_ms", 10),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        teacher_pb2_grpc.add_DirectoryServicer_to_server(FakeDirectory(), server)
        link = SilentLink(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        options = keepalive(every_s=0.3, answer_s=0.5)
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{await link.start()}", options=options
        ) as channel:
            call = teacher_pb2_grpc.DirectoryStub(channel).Watch(teacher_pb2.WatchRequest())
            await call.read()
            await asyncio.sleep(quiet_s)
            link.is_silent = True
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await asyncio.wait_for(call.read(), NOTICED_S)
            assert told.value.code() is grpc.StatusCode.UNAVAILABLE
        await link.stop()
        await server.stop(None)

    asyncio.run(story())


def test_client_notices_a_silent_peer_within_15_s() -> None:
    options = dict(CHANNEL_OPTIONS)
    every_ms, answer_ms = options["grpc.keepalive_time_ms"], options["grpc.http2.ping_timeout_ms"]
    assert every_ms + answer_ms <= 15_000
    assert options["grpc.http2.max_pings_without_data"] == 0
