"""A TCP link that can fall silent: its sockets stay open, and nothing comes through any more."""

from __future__ import annotations

import asyncio


class SilentLink:
    """Forwards 127.0.0.1:port to a server until `is_silent`."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_silent = False

    async def start(self) -> int:
        """Listen on a free port, which is returned."""
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close all connections."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._copy(source, sink))
            self._tasks.add(task)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while content := await source.read(1 << 16):
                if not self.is_silent:
                    sink.write(content)
                    await sink.drain()
        finally:
            sink.close()
