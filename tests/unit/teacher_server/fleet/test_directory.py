"""The Directory: leases, and what is sent to those who watch it."""

from __future__ import annotations

import asyncio
import dataclasses

import grpc
import pytest

from protos import teacher_pb2, teacher_pb2_grpc
from teacher_server.fleet.directory_server import (
    DirectoryServer,
    DirectoryService,
    fetch_fleet,
    start_after_another,
)
from teacher_server.fleet.leases import Lease, Leases


def lease(replica_id: str, kind: str = "dialogue", port: int = 1) -> Lease:
    return Lease(kind=kind, address=f"127.0.0.1:{port}", replica_id=replica_id, pid=1)


def test_leases_are_kept_by_renewing_and_lost_by_time_or_release() -> None:
    now = [0.0]
    leases = Leases(5.0, clock=lambda: now[0])
    assert leases.renew(lease("b"))
    assert leases.renew(lease("a"))
    assert not leases.renew(lease("a"))
    assert [held.replica_id for held in leases.fleet()] == ["a", "b"]
    now[0] = 4.0
    assert not leases.renew(lease("b"))
    now[0] = 5.0
    assert leases.expire()
    assert [held.replica_id for held in leases.fleet()] == ["b"]
    assert leases.release("b")
    assert not leases.release("b")
    assert not leases.expire()


def test_leases_of_a_replica_with_a_new_address_change_the_fleet() -> None:
    leases = Leases(5.0, clock=lambda: 0.0)
    leases.renew(lease("a", port=1))
    assert leases.renew(lease("a", port=2))


def test_watch_sends_the_fleet_at_once_and_after_each_change() -> None:
    async def scenario() -> list[list[str]]:
        server = DirectoryServer(settle_s=0.0)
        port = await server.start("127.0.0.1", 0)
        await server.service.renew(lease("a"))
        seen: list[list[str]] = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            watch = teacher_pb2_grpc.DirectoryStub(channel).Watch(teacher_pb2.WatchRequest())
            seen.append(replica_ids(await watch.read()))
            await server.service.renew(lease("a"))  # Changes nothing, sends nothing.
            await server.service.renew(lease("b"))
            seen.append(replica_ids(await watch.read()))
            await server.service.release("a")
            seen.append(replica_ids(await watch.read()))
            watch.cancel()
        assert server.healthy
        await server.stop(0.1)
        assert not server.healthy
        return seen

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == [["a"], ["a", "b"], ["b"]]


def test_replicas_of_serve_with_weights_that_were_followed_are_listed_as_retiring() -> None:
    async def scenario() -> dict[str, bool]:
        retiring = {"dialogue": ["old"]}
        service = DirectoryService(Leases(5.0), settle_s=0.0, retiring=retiring)
        watch = service.Watch(teacher_pb2.WatchRequest(), None)  # type: ignore[arg-type]
        keep = asyncio.create_task(service.keep())
        for replica_id, weights in (("a", "old"), ("b", "new")):
            await service.renew(dataclasses.replace(lease(replica_id), weights_digest=weights))
        # What joined by itself leaves by itself; another kind has weights of its own.
        outside = dataclasses.replace(lease("c"), weights_digest="old", lease_id="l")
        other = dataclasses.replace(lease("d", "recommendation"), weights_digest="old")
        await service.renew(outside)
        await service.renew(other)
        fleet = await anext(watch)
        keep.cancel()
        return {it.replica_id: it.retiring for it in fleet.endpoints}

    found = asyncio.run(asyncio.wait_for(scenario(), 20))
    assert found == {"a": True, "b": False, "c": False, "d": False}


def test_watch_of_a_directory_that_just_started_waits_for_the_replicas_to_renew() -> None:
    async def scenario() -> list[str]:
        service = DirectoryService(Leases(5.0), settle_s=0.1)
        watch = service.Watch(teacher_pb2.WatchRequest(), None)  # type: ignore[arg-type]
        first = asyncio.ensure_future(anext(watch))
        keep = asyncio.create_task(service.keep())
        await service.renew(lease("a"))
        fleet = await first
        keep.cancel()
        return replica_ids(fleet)

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == ["a"]


def test_directory_that_replaces_another_waits_for_its_port() -> None:
    async def scenario() -> None:
        before = DirectoryServer(settle_s=0.0)
        port = await before.start("127.0.0.1", 0)
        new = start_after_another(lambda: DirectoryServer(settle_s=0.0), "127.0.0.1", port)
        starting = asyncio.create_task(new)
        assert await asyncio.wait({starting}, timeout=0.1) == (set(), {starting})
        await before.stop(0.0)
        after = await starting
        assert after.healthy
        await after.stop(0.0)

    asyncio.run(asyncio.wait_for(scenario(), 20))


def replica_ids(fleet: object) -> list[str]:
    assert isinstance(fleet, teacher_pb2.Fleet)
    return [endpoint.replica_id for endpoint in fleet.endpoints]


def test_fetch_fleet_without_a_directory_is_refused() -> None:
    with pytest.raises(OSError, match=r"a Directory must answer at 127\.0\.0\.1:1"):
        fetch_fleet("127.0.0.1:1", 0.5)
