"""Who is served and who is refused, against real gRPC servers."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos import teacher_pb2, teacher_pb2_grpc
from teacher_server.fleet.directory_server import DirectoryServer, fetch_fleet
from teacher_server.fleet.leases import Lease
from teacher_server.replica.rpc import MAX_METADATA_BYTES, is_serving
from teacher_server.replica.service import TeacherServer
from tests.support.fake_teacher import FakeTeacher
from tests.support.secure_fleet import (
    GOOD,
    METHODS,
    NO_METHODS,
    OTHER_TOKEN,
    TOKEN,
    Running,
    ask,
    files,
    fleet,
    run,
    status,
    write_two_sets,
)
from trainer.common.errors import TeacherUnavailable
from trainer.security.channels import ChannelFactory
from trainer.security.credentials import NO_SECURITY, SecurityFiles

BEYOND = "192.0.2.1"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("security")
    write_two_sets(root)
    return root


def ours(root: Path, running: Running) -> grpc.aio.Channel:
    return ChannelFactory(files(root)).aio(running.dialogue)


@pytest.mark.parametrize("with_tls", [True, False])
@pytest.mark.parametrize("with_token", [True, False])
def test_student_and_commands_are_served(root: Path, with_tls: bool, with_token: bool) -> None:
    security = SecurityFiles(
        tls=files(root).tls if with_tls else None,
        token_file=files(root).token_file if with_token else None,
    )

    async def scenario() -> None:
        async with fleet(security) as running:
            assert await asyncio.to_thread(ask, running.directory, security) == 4
            endpoints = await asyncio.to_thread(fetch_fleet, running.directory, 5.0, security)
            assert {it.kind for it in endpoints} == {"dialogue", "recommendation"}
            for address in running.addresses:
                assert await asyncio.to_thread(is_serving, address, 5.0, security)

    run(scenario)


def test_every_method_without_the_token_is_unauthenticated(root: Path) -> None:
    refused: list[tuple[tuple[str, str], ...]] = [
        (),
        (("authorization", f"Bearer {OTHER_TOKEN}"),),
        (("authorization", TOKEN),),
        (("authorization", f"Bearer {TOKEN[:-1]}"),),
        (("authorization", f"Bearer {TOKEN}0"),),
        (("authorization", "Bearer "),),
        (*GOOD, *GOOD),
        (("x-authorization", f"Bearer {TOKEN}"),),
    ]

    async def scenario() -> None:
        async with fleet(files(root)) as running:
            for address in running.addresses:
                async with ChannelFactory(files(root)).aio(address) as channel:
                    for method in [*METHODS, *NO_METHODS]:
                        for metadata in refused:
                            code = await status(channel, method, metadata)
                            assert code is grpc.StatusCode.UNAUTHENTICATED, (method, metadata)
                    for method in NO_METHODS:
                        code = await status(channel, method, GOOD)
                        assert code is grpc.StatusCode.UNIMPLEMENTED

    assert {"/conkd.v1.Directory/Watch", "/conkd.v1.Teacher/Score"} < set(METHODS)
    assert len(METHODS) >= 6
    run(scenario)


def test_token_alone_on_loopback_is_asked_for_too(root: Path) -> None:
    token_alone = SecurityFiles(token_file=files(root).token_file)

    async def scenario() -> None:
        async with fleet(token_alone) as running:
            async with grpc.aio.insecure_channel(running.dialogue) as channel:
                stub = teacher_pb2_grpc.TeacherStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Describe(teacher_pb2.DescribeRequest())
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            details = str(refused.value.details())
            assert "Set teachers.token_file" in details and TOKEN not in details
            assert not await asyncio.to_thread(is_serving, running.dialogue, 5.0)

    run(scenario)


def test_reflection_with_the_token_lists_the_services(root: Path) -> None:
    async def scenario() -> None:
        async with fleet(files(root)) as running, ours(root, running) as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # pyright: ignore
            call = stub.ServerReflectionInfo(metadata=GOOD)
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            reply = await call.read()
            call.cancel()
        listed = {service.name for service in reply.list_services_response.service}
        assert "conkd.v1.Teacher" in listed

    run(scenario)


def test_metadata_beyond_the_limit_is_refused_and_the_server_lives_on(root: Path) -> None:
    async def scenario() -> None:
        async with fleet(files(root)) as running, ours(root, running) as channel:
            large = (*GOOD, ("x-large", "x" * MAX_METADATA_BYTES))
            code = await status(channel, METHODS[0], large)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            stub = teacher_pb2_grpc.TeacherStub(channel)
            fits = (*GOOD, ("x-large", "x" * (MAX_METADATA_BYTES // 2)))
            told = await stub.Describe(teacher_pb2.DescribeRequest(), metadata=fits)
            assert told.kind == "dialogue"

    run(scenario)


@pytest.mark.parametrize("missing", ["both", "tls", "token_file"])
def test_server_beyond_this_machine_without_both_is_refused(root: Path, missing: str) -> None:
    security = files(root)
    for name in ("tls", "token_file"):
        if missing in ("both", name):
            security = dataclasses.replace(security, **{name: None})

    async def scenario() -> None:
        directory = DirectoryServer(security=security)
        teacher = TeacherServer(FakeTeacher(), replica_id="r", security=security)
        for start in (directory.start("0.0.0.0", 0), teacher.start("0.0.0.0")):
            with pytest.raises(
                ValueError, match=r"loopback .* got 0\.0\.0\.0\. Give --tls and --tok"
            ):
                await start

    run(scenario)


def test_server_beyond_this_machine_with_both_or_consent_starts(root: Path) -> None:
    async def scenario() -> None:
        for security in (files(root), SecurityFiles(insecure=True)):
            directory = DirectoryServer(security=security)
            assert await directory.start("0.0.0.0", 0)
            await directory.stop(0)

    run(scenario)


def test_dialer_beyond_this_machine_without_both_dials_nobody(root: Path) -> None:
    async def scenario() -> None:
        for name in ("tls", "token_file"):
            channels = ChannelFactory(dataclasses.replace(files(root), **{name: None}))
            for dial in (channels.aio, channels.blocking):
                with pytest.raises(ValueError, match=f"loopback .* got {BEYOND}. Set teachers.tls"):
                    dial(f"{BEYOND}:50051")
        for security in (files(root), SecurityFiles(insecure=True)):
            ChannelFactory(security).blocking(f"{BEYOND}:50051").close()

    run(scenario)


def test_student_refuses_a_replica_beyond_this_machine_that_nothing_protects() -> None:
    async def scenario() -> None:
        directory = DirectoryServer(settle_s=0.0)
        port = await directory.start("127.0.0.1", 0)
        lease = Lease(kind="dialogue", address=f"{BEYOND}:1", replica_id="far", pid=1)
        await directory.service.renew(lease)
        with pytest.raises(ValueError, match=f"a loopback address .* got {BEYOND}"):
            await asyncio.to_thread(ask, f"127.0.0.1:{port}", NO_SECURITY)
        await directory.stop(0)

    run(scenario)


def test_student_with_another_token_or_ca_is_told_so(root: Path) -> None:
    wrong_token = SecurityFiles(tls=files(root).tls, token_file=files(root, "theirs").token_file)

    async def scenario() -> None:
        async with fleet(files(root)) as running:
            with pytest.raises(TeacherUnavailable, match=r"UNAUTHENTICATED .*teachers\.token_file"):
                await asyncio.to_thread(ask, running.directory, wrong_token, connect_s=0.3)
            with pytest.raises(TeacherUnavailable, match=r"UNAVAILABLE .*CERTIFICATE_VERIFY"):
                await asyncio.to_thread(
                    ask, running.directory, files(root, "theirs"), connect_s=0.3
                )

    run(scenario)


def test_loopback_is_dialled_past_a_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")

    async def scenario() -> None:
        async with fleet(NO_SECURITY) as running:
            async with grpc.aio.insecure_channel(running.directory) as plain:
                # The proxy is asked, and there is none.
                assert await status(plain, METHODS[0], ()) is grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(is_serving, running.directory, 5.0)

    run(scenario)
