"""Who gets in and who does not, against real gRPC servers with real certificates."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos import codec, teacher_pb2, teacher_pb2_grpc
from teacher_server import certificates
from teacher_server.compress import Cut, compress
from teacher_server.directory import DirectoryServer, Lease, fetch_fleet
from teacher_server.rpc import MAX_METADATA_BYTES, is_serving, new_server
from teacher_server.security import ServerSecurity
from teacher_server.service import TeacherServer
from tests.fake_teacher import FACTS, SUPPORT, VOCAB, FakeTeacher, rows_after
from trainer.channels import Dialer
from trainer.config import DistillConfig, TeachersConfig
from trainer.credentials import NO_SECURITY, SERVER_NAME, SecurityFiles
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits
from trainer.errors import TeacherUnavailable
from trainer.teacher_client import TeacherClient

TOKEN = "0123456789abcdef" * 4
OTHER_TOKEN = "f" + TOKEN[1:]
GOOD = (("authorization", f"Bearer {TOKEN}"),)
BEYOND = "192.0.2.1"
GRAPH = "graph-a"
RECOMMENDATION = dataclasses.replace(
    FACTS,
    kind="recommendation",
    limits=InputLimits(max_entities=16),
    num_entities=50,
    graph_digest=GRAPH,
    weights_digest="weights-r",
)
HANDSHAKE = (
    ("conkd-vocabulary-digest", FACTS.vocabulary_digest),
    ("conkd-wire-version", str(codec.FORMAT_VERSION)),
)
SERVICES = [
    *teacher_pb2.DESCRIPTOR.services_by_name.values(),
    *health_pb2.DESCRIPTOR.services_by_name.values(),
    *reflection_pb2.DESCRIPTOR.services_by_name.values(),
]
METHODS = [
    f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods
]
NO_METHODS = ["/conkd.Teacher/NoSuchMethod", "/no.Such/Service"]


class FakeRecommender(FakeTeacher):
    """One row per example, that of the token whose id is the number of entities."""

    def __init__(self) -> None:
        super().__init__(RECOMMENDATION)

    def score(self, inputs: Any, cut: Cut) -> codec.TargetRows:
        ids = torch.tensor([len(each.entities) for each in inputs])
        return compress(rows_after(ids), cut, support=SUPPORT)


@dataclass(frozen=True)
class SmallVocabulary:
    digest: str = FACTS.vocabulary_digest
    size: int = VOCAB


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of certificates and two tokens."""
    root = tmp_path_factory.mktemp("security")
    for name, token in (("ours", TOKEN), ("theirs", OTHER_TOKEN)):
        certificates.make_certificates(root / name, days=1)
        (root / f"{name}.token").touch(0o600)
        (root / f"{name}.token").write_text(token)
    return root


def files(root: Path, name: str = "ours") -> SecurityFiles:
    return SecurityFiles(tls=str(root / name), token_file=str(root / f"{name}.token"))


@dataclass(frozen=True)
class Running:
    directory: str
    dialogue: str

    @property
    def addresses(self) -> list[str]:
        return [self.directory, self.dialogue]


@contextlib.asynccontextmanager
async def fleet(security: SecurityFiles) -> AsyncIterator[Running]:
    """A Directory that leads to one replica of each kind."""
    directory = DirectoryServer(settle_s=0.0, security=security)
    port = await directory.start("127.0.0.1", 0)
    servers = [
        TeacherServer(teacher, replica_id=teacher.facts.kind, security=security)
        for teacher in (FakeTeacher(), FakeRecommender())
    ]
    addresses = [f"127.0.0.1:{await server.start('127.0.0.1')}" for server in servers]
    for kind, address in zip(("dialogue", "recommendation"), addresses, strict=True):
        await directory.service.renew(Lease(kind=kind, address=address, replica_id=kind, pid=1))
    try:
        yield Running(f"127.0.0.1:{port}", addresses[0])
    finally:
        for server in servers:
            await server.drain(0.2)
        await directory.stop(0.2)


def ours(root: Path, running: Running) -> grpc.aio.Channel:
    return Dialer(files(root)).aio(running.dialogue)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), 60)

    asyncio.run(bounded())


def ask(directory: str, security: SecurityFiles, **settings: float) -> int:
    """A student's question to both kinds; the number of rows that came."""
    config = TeachersConfig(
        directory=directory,
        tls=security.tls,
        token_file=security.token_file,
        insecure=security.insecure,
        **settings,  # type: ignore[arg-type]
    )
    vocabulary: Any = SmallVocabulary()
    client = TeacherClient(config, DistillConfig(), vocabulary=vocabulary, graph_digest=GRAPH)
    nothing = np.empty(0, np.int32)
    example = Example(
        example_id="0",
        context_ids=np.array([1, 2], np.int32),
        response_ids=np.arange(3, dtype=np.int32),
        context_entities=np.array([3], np.int32),
        context_words=nothing,
        gold_items=nothing,
    )
    try:
        received = client.submit([example]).result()
    finally:
        client.close()
    return received.dialogue.num_rows + received.recommendation.num_rows


async def status(
    channel: grpc.aio.Channel, method: str, metadata: tuple[tuple[str, str], ...]
) -> grpc.StatusCode:
    """How a call ends whose caller opens a stream and sends nothing."""
    # Who is let in by mistake waits for a request of ours: that is no answer either.
    call = channel.stream_stream(method)(metadata=metadata, timeout=10)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call.read()
    return await call.code()


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
                async with Dialer(files(root)).aio(address) as channel:
                    for method in [*METHODS, *NO_METHODS]:
                        for metadata in refused:
                            code = await status(channel, method, metadata)
                            assert code is grpc.StatusCode.UNAUTHENTICATED, (method, metadata)
                    for method in NO_METHODS:
                        code = await status(channel, method, GOOD)
                        assert code is grpc.StatusCode.UNIMPLEMENTED

    assert {"/conkd.Directory/Watch", "/conkd.Teacher/Score"} < set(METHODS)
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
        assert "conkd.Teacher" in listed

    run(scenario)


@dataclass(frozen=True)
class Pair:
    """One side of a handshake: whom it trusts, and who it says it is."""

    ca: bytes
    certificate: bytes
    key: bytes

    def channel(self, address: str) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)
        options = [("grpc.ssl_target_name_override", SERVER_NAME)]
        return grpc.aio.secure_channel(address, credentials, options=options)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """A server that calls itself SERVING; it takes whatever the TLS library takes."""
        server = new_server(ServerSecurity(NO_SECURITY))
        teacher_pb2_grpc.add_TeacherServicer_to_server(teacher_pb2_grpc.TeacherServicer(), server)
        credentials = grpc.ssl_server_credentials([(self.key, self.certificate)])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


def pair(folder: Path, role: str, ca_folder: Path | None = None) -> Pair:
    names = ((ca_folder or folder) / "ca.pem", folder / f"{role}.pem", folder / f"{role}.key")
    return Pair(*(path.read_bytes() for path in names))


class Issuer:
    """A CA of its own that signs for any role, name and period."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._ca = certificates._ca_certificate(self._key, period(0))

    def pair(self, role: str, *, days_ago: int = 0) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        signed = certificates._certificate(
            role, key, ca=self._ca, ca_key=self._key, period=period(days_ago)
        )
        return Pair(
            self._ca.public_bytes(Encoding.PEM),
            signed.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )


def period(days_ago: int) -> tuple[datetime.datetime, datetime.datetime]:
    """The two days around the present, or around days ago."""
    middle = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=days_ago)
    return middle - datetime.timedelta(days=1), middle + datetime.timedelta(days=1)


def write(folder: Path, role: str, made: Pair) -> SecurityFiles:
    folder.mkdir(exist_ok=True)
    (folder / "ca.pem").write_bytes(made.ca)
    (folder / f"{role}.pem").write_bytes(made.certificate)
    (folder / f"{role}.key").touch(0o600)
    (folder / f"{role}.key").write_bytes(made.key)
    return SecurityFiles(tls=str(folder))


async def reaches(address: str, side: Pair) -> bool:
    """Whether a call with the right token gets as far as a method."""
    async with side.channel(address) as channel:
        code = await status(channel, "/conkd.Teacher/NoSuchMethod", GOOD)
    assert code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE), code
    return code is grpc.StatusCode.UNIMPLEMENTED


def test_server_lets_in_only_clients_of_its_ca(root: Path, tmp_path: Path) -> None:
    issuer = Issuer()
    security = write(tmp_path, "server", issuer.pair("server"))
    good = issuer.pair("client")
    theirs = pair(root / "theirs", "client")
    strangers = {
        "of another CA": dataclasses.replace(theirs, ca=good.ca),
        "who trusts another CA": dataclasses.replace(good, ca=theirs.ca),
        "who is a server": issuer.pair("server"),
        "whose time is over": issuer.pair("client", days_ago=3),
        "whose time is to come": issuer.pair("client", days_ago=-3),
    }

    async def scenario() -> None:
        async with fleet(security) as running:
            for address in running.addresses:
                assert await reaches(address, good)
                for who, stranger in strangers.items():
                    assert not await reaches(address, stranger), who
                without = grpc.ssl_channel_credentials(good.ca)
                name = [("grpc.ssl_target_name_override", SERVER_NAME)]
                for channel in (
                    grpc.aio.secure_channel(address, without, options=name),
                    grpc.aio.insecure_channel(address),
                ):
                    async with channel:
                        code = await status(channel, METHODS[0], GOOD)
                        assert code is grpc.StatusCode.UNAVAILABLE

    run(scenario)


def test_client_talks_only_to_servers_of_its_ca_and_name(root: Path, tmp_path: Path) -> None:
    issuer = Issuer()
    security = write(tmp_path, "client", issuer.pair("client"))
    strangers = {
        "of another CA": pair(root / "theirs", "server"),
        "who is a client": issuer.pair("client"),
        "whose time is over": issuer.pair("server", days_ago=3),
    }

    async def scenario() -> None:
        async with issuer.pair("server").serving() as address, Dialer(security).aio(address) as it:
            assert await status(it, METHODS[0], ()) is grpc.StatusCode.UNIMPLEMENTED
        for who, stranger in strangers.items():
            async with stranger.serving() as address, Dialer(security).aio(address) as channel:
                assert await status(channel, METHODS[0], ()) is grpc.StatusCode.UNAVAILABLE, who

    run(scenario)


def test_healthy_stream_beside_strangers_sees_no_error(root: Path) -> None:
    async def scenario() -> None:
        async with fleet(files(root)) as running:
            dialer = Dialer(files(root))
            async with dialer.aio(running.dialogue) as channel, dialer.aio(running.dialogue) as bad:
                stub = teacher_pb2_grpc.TeacherStub(channel)
                call = stub.Score(metadata=(*dialer.metadata, *HANDSHAKE))
                for request_id in range(20):
                    await call.write(score_request(request_id))
                    codes = await asyncio.gather(*(status(bad, it, ()) for it in METHODS))
                    assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED}
                    theirs = pair(root / "theirs", "client", root / "ours")
                    assert not await reaches(running.dialogue, theirs)
                    async with grpc.aio.insecure_channel(running.dialogue) as plain:
                        code = await status(plain, METHODS[0], GOOD)
                        assert code is grpc.StatusCode.UNAVAILABLE
                    reply = await call.read()
                    assert isinstance(reply, teacher_pb2.ScoreReply)
                    assert (reply.request_id, reply.WhichOneof("outcome")) == (request_id, "block")
                await call.done_writing()
                assert await call.code() is grpc.StatusCode.OK

    run(scenario)


def score_request(request_id: int) -> teacher_pb2.ScoreRequest:
    return teacher_pb2.ScoreRequest(
        request_id=request_id,
        token_ids=np.array([1, 2], "<i4").tobytes(),
        token_lengths=np.array([2], "<i4").tobytes(),
        target_lengths=np.array([1], "<i4").tobytes(),
        compression=teacher_pb2.Compression(top_k=4, values=teacher_pb2.FLOAT32),
    )


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
            dialer = Dialer(dataclasses.replace(files(root), **{name: None}))
            for dial in (dialer.aio, dialer.blocking):
                with pytest.raises(ValueError, match=f"loopback .* got {BEYOND}. Set teachers.tls"):
                    dial(f"{BEYOND}:50051")
        for security in (files(root), SecurityFiles(insecure=True)):
            Dialer(security).blocking(f"{BEYOND}:50051").close()

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
                await asyncio.to_thread(ask, running.directory, wrong_token, connect_s=1.0)
            with pytest.raises(TeacherUnavailable, match=r"UNAVAILABLE .*CERTIFICATE_VERIFY"):
                await asyncio.to_thread(
                    ask, running.directory, files(root, "theirs"), connect_s=1.0
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
