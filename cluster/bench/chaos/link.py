"""A TCP link whose far end can change and whose connections can be broken."""

from __future__ import annotations

import asyncio

from trainer.security.addresses import host_of

HOST = "127.0.0.1"
CHUNK_BYTES = 1 << 16


class Link:
    """Forwards every connection to `address` to the target of that moment.

    A connection keeps the end that it was made to: where the target changes, old ones go on, as
    they do when another machine takes over an address.
    """

    def __init__(self) -> None:
        self.address = ""
        """host:port of the near end, once it listens."""
        self._target = ""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Listen on a free port of this machine."""
        self._server = await asyncio.start_server(self._on_connection, HOST, 0)
        self.address = f"{HOST}:{self._server.sockets[0].getsockname()[1]}"

    def lead_to(self, target: str) -> None:
        """Forward connections that are made from now on to host:port."""
        self._target = target

    def flap(self) -> int:
        """Reset all connections; returns how many. New ones are taken at once."""
        # Both ends of a connection are here.
        number = len(self._writers) // 2
        for writer in list(self._writers):
            writer.transport.abort()
        return number

    async def close(self) -> None:
        """Stop listening, and reset what is open."""
        if self._server is not None:
            self._server.close()
        self.flap()

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        port = int(self._target.rpartition(":")[2] or 0)
        try:
            far_reader, far_writer = await asyncio.open_connection(host_of(self._target), port)
        except OSError:
            # Nobody listens there yet; the caller tries again.
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._writers |= ends
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass bytes on until one of both ends is gone; then the other one is reset as well."""
    try:
        while content := await source.read(CHUNK_BYTES):
            sink.write(content)
            await sink.drain()
    except OSError:
        pass
    sink.transport.abort()
