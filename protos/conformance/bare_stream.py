"""One Score stream in bare HTTP/2 (RFC 9113), whose pings we send when we want.

gRPC's own keepalive sends them at one even distance. A server that allows a ping in five minutes
ends the connection at the third that is too early (gRFC A8), so even ones would take 20 s to tell
it from one that allows a ping every 5 s.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence

from protos.teacher_pb2 import DESCRIPTOR, ScoreReply, ScoreRequest

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_HEADERS, END_STREAM, ACK = 4, 1, 1
STREAM = 1
METHOD = f"/{DESCRIPTOR.services_by_name['Teacher'].full_name}/Score"
HEAD_BYTES = 9  # of a frame
PREFIX_BYTES = 5  # of a message: whether it is compressed, and its length


class SentAway(Exception):
    """The server ended the connection or the stream; the message says how."""


class BareStream:
    """A stream that is open until `close`.

    Raises:
        OSError: also later, from every call, if the connection breaks or nothing comes in time.
    """

    def __init__(self, connection: socket.socket, metadata: Sequence[tuple[str, str]]) -> None:
        """`connection` is ours from here on, TLS and time limit set."""
        self._connection = connection
        self._buffer = self._replies = b""
        headers = (
            *((":method", "POST"), (":scheme", "http"), (":path", METHOD)),
            *((":authority", "teacher"), ("te", "trailers"), ("content-type", "application/grpc")),
            *metadata,
        )
        connection.sendall(PREFACE + frame(SETTINGS))
        self._send(HEADERS, b"".join(literal(*header) for header in headers), END_HEADERS)

    def close(self) -> None:
        """Break off."""
        self._connection.close()

    def ask(self, request: ScoreRequest) -> ScoreReply:
        """The reply to a request; SentAway if there will be none."""
        message = request.SerializeToString()
        self._send(DATA, b"\0" + len(message).to_bytes(4, "big") + message)
        for kind, flags, body in self._frames():
            self._replies += body if kind == DATA else b""
            end = PREFIX_BYTES + int.from_bytes(self._replies[1:PREFIX_BYTES], "big")
            if PREFIX_BYTES <= end <= len(self._replies):
                message, self._replies = self._replies[PREFIX_BYTES:end], self._replies[end:]
                return ScoreReply.FromString(message)
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                break
        raise SentAway("the stream ended")

    def listen(self, seconds: float) -> bool:
        """Take what the server sends for so long; SentAway if it has had enough of us.

        Returns:
            Whether that was nothing: what it sends lets it forget earlier pings.
        """
        limit_s, until_s = self._connection.gettimeout(), time.monotonic() + seconds
        is_quiet = True
        try:
            while (left_s := until_s - time.monotonic()) > 0:
                self._connection.settimeout(left_s)
                is_quiet &= next(self._frames())[0] == PING
        except TimeoutError:
            pass
        finally:
            self._connection.settimeout(limit_s)
        return is_quiet

    def ping(self, content: int) -> bool:
        """Ping, and wait for the answer; SentAway if the server has had enough of us.

        Returns:
            Whether it sent nothing else meanwhile.
        """
        wanted, is_quiet = content.to_bytes(8, "big"), True
        self._connection.sendall(frame(PING, wanted))
        for kind, flags, body in self._frames():
            is_quiet &= kind == PING
            if kind == PING and flags & ACK and body == wanted:
                break
        return is_quiet

    def _send(self, kind: int, body: bytes, flags: int = 0) -> None:
        self._connection.sendall(frame(kind, body, flags, STREAM))

    def _frames(self) -> Iterator[tuple[int, int, bytes]]:
        """Kind, flags and body of each frame; those that want an answer are answered."""
        while True:
            # Whole or not at all: after a timeout the rest of it is read.
            size = HEAD_BYTES + int.from_bytes(self._received(HEAD_BYTES)[:3], "big")
            whole = self._received(size)
            self._buffer = self._buffer[size:]
            kind, flags, body = whole[3], whole[4], whole[HEAD_BYTES:]
            if kind == GOAWAY:
                # The last stream and a code come first, then a text.
                raise SentAway(f"GOAWAY {body[8:].decode('ascii', 'replace')}".strip())
            if kind == RST_STREAM:
                raise SentAway("the stream was reset")
            if kind in (SETTINGS, PING) and not flags & ACK:
                self._connection.sendall(frame(kind, body if kind == PING else b"", ACK))
            yield kind, flags, body

    def _received(self, number: int) -> bytes:
        """The first bytes of what has come, which stay there."""
        while len(self._buffer) < number:
            piece = self._connection.recv(1 << 16)
            if not piece:
                raise SentAway("the connection was closed")
            self._buffer += piece
        return self._buffer[:number]


def frame(kind: int, body: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    """A frame as it is sent."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def literal(name: str, value: str) -> bytes:
    """A header field that no table of HPACK has (RFC 7541, 6.2.2)."""
    return b"\0" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    content = text.encode("ascii")
    length = len(content)
    if length < 127:
        return bytes([length]) + content
    rest, digits = length - 127, bytearray([127])
    while rest >= 128:
        digits.append(rest % 128 + 128)
        rest //= 128
    return bytes([*digits, rest]) + content
