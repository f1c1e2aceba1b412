"""Keeps a teacher of any make listed by a Directory, for as long as it serves.

    endpoint = Endpoint(kind="dialogue", address="127.0.0.1:7000", replica_id=secrets.token_hex(8))
    with leased(lambda: grpc.insecure_channel(directory), endpoint):
        server.wait_for_termination()

Of grpc and this package alone. A thread renews; it outlives a Directory that restarts.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence

import grpc

from protos.teacher_pb2 import Endpoint, LeaseTerms, RegisterRequest, RenewRequest
from protos.teacher_pb2_grpc import DirectoryStub
from trainer.common.errors import InputError, MachineError

logger = logging.getLogger(__name__)

REGISTER_S = 10.0
# Well under a lease: one slow renewal must not delist a healthy teacher.
RENEW_TIMEOUT_S = 2.0
# What only the one who called can put right.
REFUSED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
}

Metadata = Sequence[tuple[str, str]]


@contextlib.contextmanager
def leased(
    open_channel: Callable[[], grpc.Channel], endpoint: Endpoint, metadata: Metadata = ()
) -> Iterator[None]:
    """List a teacher that serves already; it is delisted when the context ends.

    Args:
        open_channel: opens a channel to the Directory, with TLS as a server if the fleet has it.
        endpoint: of the teacher; its replica_id is new in every process.
        metadata: of every call: the fleet's token.

    Raises:
        InputError: if the Directory refuses the teacher.
        MachineError: if none answers, or it has no room.
    """
    lease = _Lease(endpoint, metadata)
    with open_channel() as channel:
        renew_every_s = _registered(lease, DirectoryStub(channel)).renew_every_s
    ended = threading.Event()
    arguments = (lease, open_channel, renew_every_s, ended)
    renewal = threading.Thread(target=_hold, args=arguments, name="lease", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        # One that nobody hears of runs out by itself.
        with contextlib.suppress(grpc.RpcError), open_channel() as channel:
            lease.renew(DirectoryStub(channel), leave=True)


class _Lease:
    """The calls of one holder."""

    def __init__(self, endpoint: Endpoint, metadata: Metadata) -> None:
        self.endpoint = endpoint
        self._lease_id = secrets.token_hex(16)
        self._metadata = metadata

    def register(self, directory: DirectoryStub) -> LeaseTerms:
        asked = RegisterRequest(endpoint=self.endpoint, lease_id=self._lease_id)
        return directory.Register(asked, timeout=REGISTER_S, metadata=self._metadata)

    def renew(self, directory: DirectoryStub, *, leave: bool = False) -> None:
        replica_id = self.endpoint.replica_id
        asked = RenewRequest(replica_id=replica_id, lease_id=self._lease_id, leave=leave)
        directory.Renew(asked, timeout=RENEW_TIMEOUT_S, metadata=self._metadata)


def _registered(lease: _Lease, directory: DirectoryStub) -> LeaseTerms:
    try:
        return lease.register(directory)
    except grpc.RpcError as error:
        code, details = error.code(), error.details()  # type: ignore[attr-defined]
        what = f"the Directory must take {lease.endpoint.replica_id}, got {code.name}: {details}"
        raise (InputError if code in REFUSED else MachineError)(what) from error


def _hold(
    lease: _Lease,
    open_channel: Callable[[], grpc.Channel],
    renew_every_s: float,
    ended: threading.Event,
) -> None:
    """Renew until `ended`, on a new channel after each error: an old one would wait to connect."""
    told: grpc.StatusCode | None = None
    while not ended.is_set():
        try:
            with open_channel() as channel:
                directory = DirectoryStub(channel)
                while not ended.wait(renew_every_s):
                    _renew_or_register(lease, directory)
                    told = None
        except grpc.RpcError as error:
            code = error.code()  # type: ignore[attr-defined]
            if code is not told:
                _tell(lease.endpoint.replica_id, code, error.details())  # type: ignore[attr-defined]
            told = code


def _tell(replica_id: str, code: grpc.StatusCode, details: str) -> None:
    level = logging.ERROR if code in REFUSED else logging.WARNING
    logger.log(
        level,
        "the Directory must renew the lease of %s, got %s: %s. Trying again.",
        *(replica_id, code.name, details),
    )


def _renew_or_register(lease: _Lease, directory: DirectoryStub) -> None:
    try:
        lease.renew(directory)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:  # type: ignore[attr-defined]
            raise
        # It restarted, or did not hear of us for too long.
        lease.register(directory)
