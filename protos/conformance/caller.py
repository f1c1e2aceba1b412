"""Calls to the teacher that is checked, each within a time limit."""

from __future__ import annotations

import contextlib
import functools
import queue
from collections.abc import Iterator, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import codec
from protos.codec import TargetRows
from protos.conformance.bare_stream import BareStream
from protos.handshake import handshake_metadata
from protos.limits import MAX_MESSAGE_BYTES
from protos.teacher_pb2 import DescribeRequest, Description, ScoreReply, ScoreRequest
from protos.teacher_pb2_grpc import TeacherStub
from trainer.security.channels import ChannelFactory

OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]
Metadata = Sequence[tuple[str, str]]


class NoAnswer(Exception):
    """A call ended otherwise than it must: with an error, or with replies too few or too many."""


class Caller:
    """One teacher, over one channel.

    Raises:
        grpc.RpcError: on construction, if it does not describe itself.
    """

    def __init__(self, address: str, channels: ChannelFactory, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.metadata = channels.metadata
        self._connect = functools.partial(channels.connect, address, timeout_s)
        self._channel = channels.blocking(address, OPTIONS)
        self._stub = TeacherStub(self._channel)
        self._streams: list[OpenStream] = []
        try:
            self.about = self.describe()
        except grpc.RpcError:
            self.close()
            raise

    def close(self) -> None:
        """End all streams and the channel."""
        for stream in self._streams:
            stream.cancel()
        self._channel.close()

    def describe(self) -> Description:
        """The teacher's Description."""
        return self._stub.Describe(
            DescribeRequest(), timeout=self.timeout_s, metadata=self.metadata
        )

    def describe_code(self, metadata: Metadata) -> grpc.StatusCode:
        """How a Describe with other metadata ends."""
        try:
            self._stub.Describe(DescribeRequest(), timeout=self.timeout_s, metadata=tuple(metadata))
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined]
        return grpc.StatusCode.OK

    def health(self) -> int:
        """The status that the whole server has in gRPC's health service."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        request = health_pb2.HealthCheckRequest()
        return stub.Check(  # pyright: ignore
            request, timeout=self.timeout_s, metadata=self.metadata
        ).status

    def open(self, handshake: Metadata | None = None) -> OpenStream:
        """A stream with the right handshake, or with another one."""
        sent = handshake_metadata(self.about) if handshake is None else handshake
        stream = OpenStream(self._stub, (*self.metadata, *sent), self.timeout_s)
        self._streams.append(stream)
        return stream

    def open_bare(self) -> BareStream:
        """The same over a connection of its own; OSError if there is none."""
        sent = handshake_metadata(self.about)
        return BareStream(self._connect(), (*self.metadata, *sent))

    def score_code(self, metadata: Metadata, request: ScoreRequest) -> grpc.StatusCode:
        """How a stream with one request and other metadata ends."""
        sent = (*metadata, *handshake_metadata(self.about))
        stream = OpenStream(self._stub, sent, self.timeout_s)
        self._streams.append(stream)
        stream.send(request)
        stream.end()
        return stream.last_code()

    def ask(
        self, *requests: ScoreRequest, handshake: Metadata | None = None
    ) -> dict[int, ScoreReply]:
        """The replies to all requests of one stream, by request_id.

        Raises:
            NoAnswer: if a reply is missing, doubled, or of no request, or the stream breaks.
        """
        stream = self.open(handshake)
        for request in requests:
            stream.send(request)
        stream.end()
        replies = list(stream.replies())
        asked = sorted(request.request_id for request in requests)
        answered = sorted(reply.request_id for reply in replies)
        if asked != answered:
            raise NoAnswer(
                f"each request must have one reply, got the ids {answered[:8]} for {asked[:8]}."
            )
        return {reply.request_id: reply for reply in replies}

    def rows(self, request: ScoreRequest, num_rows: int) -> TargetRows:
        """The rows of one request.

        Raises:
            NoAnswer: if they do not come.
            WireError: if they break the rules of a block.
        """
        return self.decode(self.ask(request)[request.request_id], request, num_rows)

    def decode(self, reply: ScoreReply, request: ScoreRequest, num_rows: int) -> TargetRows:
        """The rows of a reply; raises as `rows`."""
        if reply.WhichOneof("outcome") != "block":
            raise NoAnswer(f"a valid request must have a block, got {reply.error.message!r}.")
        return codec.decode(
            reply.block,
            num_rows=num_rows,
            vocab_size=self.about.vocab_size,
            values=request.compression.values,
        )


class OpenStream:
    """One Score stream whose requests are sent one after another."""

    def __init__(self, stub: TeacherStub, metadata: Metadata, timeout_s: float) -> None:
        self._outbox: queue.SimpleQueue[ScoreRequest | None] = queue.SimpleQueue()
        # The thread that reads it is gRPC's, which ends with the call.
        sent = iter(self._outbox.get, None)
        self._call = stub.Score(sent, timeout=timeout_s, metadata=tuple(metadata))

    def send(self, request: ScoreRequest) -> None:
        """Send a request."""
        self._outbox.put(request)

    def end(self) -> None:
        """Send no more: the teacher answers what it has, and ends the stream."""
        self._outbox.put(None)

    def next(self) -> ScoreReply:
        """The next reply; NoAnswer if none comes."""
        for reply in self.replies():
            return reply
        raise NoAnswer("a stream must stay open until its caller ends it, got its end.")

    def replies(self) -> Iterator[ScoreReply]:
        """The replies until the stream ends; NoAnswer if it ends with an error."""
        try:
            yield from self._call
        except grpc.RpcError as error:
            raise NoAnswer(f"a stream must end with OK, got {told(error)}.") from error

    def last_code(self) -> grpc.StatusCode:
        """How the stream ends; replies until then are dropped."""
        with contextlib.suppress(NoAnswer):
            list(self.replies())
        return self._call.code()  # type: ignore[attr-defined]

    def cancel(self) -> None:
        """Break the stream off."""
        self._call.cancel()  # type: ignore[attr-defined]
        self.end()


def told(error: grpc.RpcError) -> str:
    """Code and details of an error, shortened."""
    return f"{error.code().name}: {error.details()}"[:200]  # type: ignore[attr-defined]
