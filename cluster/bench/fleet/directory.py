"""The real Directory in a process of its own, with leases over a Unix socket.

python -m cluster.bench.fleet.directory --host HOST --port PORT --socket PATH
    [--tls DIR --token-file FILE]

In a cluster replicas renew through a handle of Ray Serve. Here they send one line of JSON,
`{"renew": {...}}` or `{"release": "ID"}`, and read one line back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from teacher_server.fleet.directory_server import DirectoryServer
from teacher_server.fleet.leases import Lease
from trainer.common.cli import run_main
from trainer.common.errors import UnreachableError
from trainer.security.credentials import SecurityFiles

TIMEOUT_S = 1.5


async def send(socket: Path, message: dict[str, Any]) -> None:
    """One call; OSError if the Directory does not answer."""
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(json.dumps(message).encode() + b"\n")
        if not await asyncio.wait_for(reader.readline(), TIMEOUT_S):
            raise UnreachableError(f"the Directory at {socket} must answer, got nothing.")
    finally:
        writer.close()


async def serve(host: str, port: int, socket: Path, security: SecurityFiles) -> None:
    """Serve until SIGTERM."""
    directory = DirectoryServer(security=security)
    await directory.start(host, port)

    async def on_call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = json.loads(await reader.readline())
        if "renew" in message:
            await directory.service.renew(Lease(**message["renew"]))
        else:
            await directory.service.release(message["release"])
        writer.write(b"ok\n")
        writer.close()

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with await asyncio.start_unix_server(on_call, socket):
        await stopped.wait()
    await directory.stop(0.5)


def add_security(parser: argparse.ArgumentParser) -> None:
    """Options of every server of a fleet."""
    parser.add_argument("--tls", metavar="DIR")
    parser.add_argument("--token-file", metavar="FILE")


def main(argv: list[str]) -> None:
    """Parse and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    add_security(parser)
    arguments = parser.parse_args(argv)
    security = SecurityFiles(tls=arguments.tls, token_file=arguments.token_file)
    asyncio.run(serve(arguments.host, arguments.port, arguments.socket, security))


if __name__ == "__main__":
    run_main(main)
