"""Teachers of other makes join by Register and Renew; nobody takes another's name."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.teacher_pb2 import (
    Endpoint,
    LeaseTerms,
    RegisterRequest,
    RenewRequest,
    WatchRequest,
)
from protos.teacher_pb2_grpc import DirectoryStub
from teacher_server.fleet.directory_server import DirectoryServer
from teacher_server.fleet.leases import RENEW_S, Lease, Leases, LeasesFull, LeaseTaken
from teacher_server.fleet.registration import MAX_REGISTER_BYTES, lease_of
from tests.support.secure_fleet import GOOD, files, run, write_two_sets
from trainer.security.channels import ChannelFactory
from trainer.security.credentials import NO_SECURITY, SecurityFiles

OURS, THEIRS = "a" * 32, "b" * 32


def asked(lease_id: str = OURS, **fields: Any) -> RegisterRequest:
    told: dict[str, Any] = {
        "kind": "dialogue",
        "address": "127.0.0.1:7000",
        "replica_id": "go-1",
        **fields,
    }
    return RegisterRequest(endpoint=Endpoint(**told), lease_id=lease_id)


def outside(replica_id: str, lease_id: str = OURS) -> Lease:
    return lease_of(asked(lease_id, replica_id=replica_id), NO_SECURITY)


def test_lease_holds_all_that_the_teacher_told() -> None:
    told = {"weights_digest": "0" * 64, "model": "Llama 7B, q4", "zone": "eu-1a", "capacity": 8}
    lease = lease_of(asked(**told), NO_SECURITY)
    assert {name: getattr(lease, name) for name in told} == told
    assert lease.is_outside and OURS not in repr(lease)


@pytest.mark.parametrize("kind", ["dialogue", "recommendation", "bigram", "my_kind-2"])
def test_any_kind_with_a_valid_name_may_join(kind: str) -> None:
    assert lease_of(asked(kind=kind), NO_SECURITY).kind == kind


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": ""}, r"endpoint\.kind must be 1 to 64"),
        ({"kind": "Dialogue"}, r"endpoint\.kind must be .* got 'Dialogue'"),
        ({"kind": "../x"}, r"endpoint\.kind must be"),
        ({"kind": "directory"}, r"endpoint\.kind must not be directory"),
        ({"replica_id": ""}, r"endpoint\.replica_id must be"),
        ({"replica_id": "a b"}, r"endpoint\.replica_id must be .* got 'a b'"),
        ({"replica_id": "r" * 129}, r"endpoint\.replica_id must be"),
        ({"weights_digest": "d\n"}, r"endpoint\.weights_digest must be"),
        ({"model": "a\x1b[31m"}, r"endpoint\.model must be"),
        ({"zone": "z" * 129}, r"endpoint\.zone must be"),
        ({"address": ""}, r"endpoint\.address must be HOST:PORT"),
        ({"address": "127.0.0.1"}, r"endpoint\.address must be HOST:PORT"),
        ({"address": "127.0.0.1:0"}, r"endpoint\.address must be HOST:PORT"),
        ({"address": "127.0.0.1:65536"}, r"endpoint\.address must be HOST:PORT"),
        ({"address": "0.0.0.0:7000"}, r"endpoint\.address must be one that students can dial"),
        ({"address": "[::]:7000"}, r"endpoint\.address must be one that students can dial"),
        ({"address": "unix:/tmp/socket:1"}, r"endpoint\.address must be HOST:PORT"),
        ({"address": "dns:///localhost:1"}, r"endpoint\.address must be HOST:PORT"),
        ({"address": "[not a number]:1"}, r"endpoint\.address must be the name or number"),
        ({"address": "a/b:1"}, r"endpoint\.address must be the name or number"),
        ({"lease_id": "short"}, "lease_id must be 16 to 64 .* got 5 characters"),
        ({"lease_id": "a" * 65}, "lease_id must be 16 to 64"),
        ({"lease_id": "a" * 31 + "é"}, "lease_id must be 16 to 64"),
        ({"model": "m" * MAX_REGISTER_BYTES}, "a RegisterRequest must have at most 4096 bytes"),
    ],
)
def test_register_of_a_wrong_field_names_it(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lease_of(asked(**fields), NO_SECURITY)


def test_address_that_would_end_an_unprotected_student_is_refused() -> None:
    far = asked(address="192.0.2.1:7000")
    with pytest.raises(ValueError, match=r"a loopback address .* got 192\.0\.2\.1"):
        lease_of(far, NO_SECURITY)
    assert lease_of(far, SecurityFiles(insecure=True)).address == "192.0.2.1:7000"
    assert lease_of(asked(address="[::1]:7000"), NO_SECURITY).address == "[::1]:7000"


def test_name_of_another_holder_is_refused_and_the_holder_keeps_it() -> None:
    now = [0.0]
    leases = Leases(5.0, clock=lambda: now[0])
    served = Lease(kind="dialogue", address="127.0.0.1:1", replica_id="serve", pid=1)
    assert leases.renew(outside("go-1")) and leases.renew(served)
    before = leases.fleet()
    for thief in (outside("go-1", THEIRS), outside("serve", THEIRS)):
        with pytest.raises(LeaseTaken, match=f"replica_id must be .* got {thief.replica_id}"):
            leases.renew(thief)
        assert leases.find(thief.replica_id, THEIRS) is None
    assert leases.find("serve", "") is None
    assert leases.fleet() == before
    # The attempt renewed nothing either.
    now[0] = 5.0
    assert leases.expire() and leases.fleet() == []
    assert leases.renew(outside("go-1", THEIRS))


def test_replica_of_serve_takes_its_id_from_an_outside_teacher_that_came_first() -> None:
    leases = Leases(5.0, clock=lambda: 0.0)
    assert leases.renew(outside("serve"))
    served = Lease(kind="dialogue", address="127.0.0.1:1", replica_id="serve", pid=1)
    assert leases.renew(served)
    assert leases.fleet() == [served]
    with pytest.raises(LeaseTaken):
        leases.renew(outside("serve"))


def test_outside_leases_are_bounded_and_leave_room_for_those_of_serve() -> None:
    leases = Leases(5.0, clock=lambda: 0.0, max_outside=2)
    assert leases.renew(outside("a")) and leases.renew(outside("b"))
    with pytest.raises(LeasesFull, match="outside teachers must be at most 2"):
        leases.renew(outside("c"))
    assert not leases.renew(outside("a"))
    assert leases.renew(Lease(kind="dialogue", address="127.0.0.1:1", replica_id="s", pid=1))
    assert leases.release("a") and leases.renew(outside("c"))


@contextlib.asynccontextmanager
async def directory(
    lease_s: float = 600.0, security: SecurityFiles = NO_SECURITY
) -> AsyncIterator[tuple[DirectoryServer, str]]:
    server = DirectoryServer(settle_s=0.0, lease_s=lease_s, security=security)
    port = await server.start("127.0.0.1", 0)
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(0.1)


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


def test_teacher_joins_renews_and_leaves() -> None:
    async def scenario() -> None:
        async with directory() as (_, address), grpc.aio.insecure_channel(address) as channel:
            stub = DirectoryStub(channel)
            watch = stub.Watch(WatchRequest())
            assert list((await watch.read()).endpoints) == []
            request = asked(weights_digest="w", model="Llama", zone="z", capacity=3)
            terms = LeaseTerms(lease_s=600.0, renew_every_s=RENEW_S)
            assert await stub.Register(request) == terms
            assert list((await watch.read()).endpoints) == [request.endpoint]
            # The reply may have been lost: the same request again changes nothing.
            assert await stub.Register(request) == terms
            assert await stub.Renew(RenewRequest(replica_id="go-1", lease_id=OURS)) == terms
            await stub.Renew(RenewRequest(replica_id="go-1", lease_id=OURS, leave=True))
            assert list((await watch.read()).endpoints) == []
            gone = await refused(stub.Renew(RenewRequest(replica_id="go-1", lease_id=OURS)))
            assert gone.code() is grpc.StatusCode.NOT_FOUND
            watch.cancel()

    run(scenario)


def test_lease_that_is_not_renewed_ends() -> None:
    async def scenario() -> None:
        async with (
            directory(lease_s=0.3) as (_, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub = DirectoryStub(channel)
            terms = await stub.Register(asked())
            assert terms.renew_every_s == pytest.approx(0.1)
            watch = stub.Watch(WatchRequest())
            assert len((await watch.read()).endpoints) == 1
            assert list((await watch.read()).endpoints) == []
            watch.cancel()

    run(scenario)


def test_stolen_name_is_one_error_and_disturbs_nobody() -> None:
    async def scenario() -> None:
        async with directory() as (server, address), grpc.aio.insecure_channel(address) as channel:
            stub = DirectoryStub(channel)
            await stub.Register(asked())
            served = Lease(kind="dialogue", address="127.0.0.1:1", replica_id="serve", pid=1)
            await server.service.renew(served)
            watch = stub.Watch(WatchRequest())
            before = await watch.read()
            for name in ("go-1", "serve"):
                error = await refused(
                    stub.Register(asked(THEIRS, replica_id=name, address="127.0.0.1:6666"))
                )
                assert error.code() is grpc.StatusCode.ALREADY_EXISTS
                assert f"got {name} of a teacher at" in str(error.details())
                assert OURS not in str(error.details())
                for leave in (False, True):
                    request = RenewRequest(replica_id=name, lease_id=THEIRS, leave=leave)
                    error = await refused(stub.Renew(request))
                    assert error.code() is grpc.StatusCode.NOT_FOUND
            wrong = await refused(stub.Register(asked(kind="No Kind", replica_id="go-2")))
            assert wrong.code() is grpc.StatusCode.INVALID_ARGUMENT
            # Nothing was announced meanwhile: what comes next is the next change.
            await stub.Renew(RenewRequest(replica_id="go-1", lease_id=OURS))
            await stub.Register(asked(THEIRS, replica_id="go-3"))
            after = await watch.read()
            assert [it.replica_id for it in after.endpoints] == ["go-1", "go-3", "serve"]
            assert [it for it in after.endpoints if it.replica_id != "go-3"] == list(
                before.endpoints
            )
            watch.cancel()

    run(scenario)


def test_with_tls_only_a_server_may_register(tmp_path: Path) -> None:
    write_two_sets(tmp_path)
    security = files(tmp_path)

    async def scenario() -> None:
        async with directory(security=security) as (_, address):
            student, teacher = ChannelFactory(security), ChannelFactory(security, "server")
            async with student.aio(address) as channel:
                error = await refused(DirectoryStub(channel).Register(asked(), metadata=GOOD))
                assert error.code() is grpc.StatusCode.PERMISSION_DENIED
                assert "server.pem" in str(error.details())
                watch = DirectoryStub(channel).Watch(WatchRequest(), metadata=GOOD)
                assert list((await watch.read()).endpoints) == []
                async with teacher.aio(address) as other:
                    # A server without the token is nobody.
                    error = await refused(DirectoryStub(other).Register(asked()))
                    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                    far = asked(address="192.0.2.1:7000")
                    await DirectoryStub(other).Register(far, metadata=teacher.metadata)
                assert list((await watch.read()).endpoints) == [far.endpoint]
                watch.cancel()

    run(scenario)


def test_server_certificate_serves_no_student_of_another_fleet(tmp_path: Path) -> None:
    write_two_sets(tmp_path)

    async def scenario() -> None:
        async with directory(security=files(tmp_path)) as (_, address):
            stranger = ChannelFactory(files(tmp_path, "theirs"), "server")
            async with stranger.aio(address) as channel:
                call = DirectoryStub(channel).Register(asked(), metadata=GOOD, timeout=5)
                assert (await refused(call)).code() is grpc.StatusCode.UNAVAILABLE

    run(scenario)
