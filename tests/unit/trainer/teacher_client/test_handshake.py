"""Whose certificates open a connection, against real gRPC servers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from protos import teacher_pb2, teacher_pb2_grpc
from protos.handshake import handshake_metadata
from teacher_server.fleet import certificates
from teacher_server.replica.rpc import new_server
from teacher_server.replica.security import ServerSecurity
from tests.support.fake_teacher import DESCRIPTION
from tests.support.replica_calls import one_range
from tests.support.secure_fleet import (
    GOOD,
    METHODS,
    files,
    fleet,
    run,
    status,
    write_two_sets,
)
from trainer.security.channels import ChannelFactory
from trainer.security.credentials import NO_SECURITY, SERVER_NAME, SecurityFiles

HANDSHAKE = handshake_metadata(DESCRIPTION)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("security")
    write_two_sets(root)
    return root


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
        """A server without any methods that takes whatever the TLS library takes."""
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
        code = await status(channel, "/conkd.v1.Teacher/NoSuchMethod", GOOD)
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
        "whose time is over": issuer.pair("client", days_ago=3),
        "whose time is to come": issuer.pair("client", days_ago=-3),
    }

    async def scenario() -> None:
        async with fleet(security) as running:
            for address in running.addresses:
                assert await reaches(address, good)
                # One that registers a teacher: Register asks for more (test_registration.py).
                assert await reaches(address, issuer.pair("server"))
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
        async with (
            issuer.pair("server").serving() as address,
            ChannelFactory(security).aio(address) as it,
        ):
            assert await status(it, METHODS[0], ()) is grpc.StatusCode.UNIMPLEMENTED
        for who, stranger in strangers.items():
            async with (
                stranger.serving() as address,
                ChannelFactory(security).aio(address) as channel,
            ):
                assert await status(channel, METHODS[0], ()) is grpc.StatusCode.UNAVAILABLE, who

    run(scenario)


def test_healthy_stream_beside_strangers_sees_no_error(root: Path) -> None:
    async def scenario() -> None:
        async with fleet(files(root)) as running:
            channels = ChannelFactory(files(root))
            async with (
                channels.aio(running.dialogue) as channel,
                channels.aio(running.dialogue) as bad,
            ):
                stub = teacher_pb2_grpc.TeacherStub(channel)
                call = stub.Score(metadata=(*channels.metadata, *HANDSHAKE))
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
        temperature=1.0,
        **one_range((1, 1)),
        compression=teacher_pb2.Compression(top_k=4, values=teacher_pb2.FLOAT32),
    )
