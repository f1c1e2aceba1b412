"""A real Directory and a real replica of each kind, on one event loop beside a test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from teacher_server.fleet.directory_server import DirectoryServer
from teacher_server.fleet.leases import Lease
from teacher_server.replica.service import TeacherServer
from teacher_server.scoring.kinds import SERVED_KINDS, load_teacher
from trainer.common.plugins import with_plugins
from trainer.teacher_client.loop import Loop

CPU = torch.device("cpu")


@contextmanager
def served(folders: Mapping[str, Path], plugins: Sequence[str] = ()) -> Iterator[str]:
    """Serve the frozen teacher of each kind; the Directory's address."""
    kinds = with_plugins(SERVED_KINDS, tuple(plugins), "SERVED_KINDS")
    teachers = [load_teacher(kind, folder, CPU, kinds=kinds) for kind, folder in folders.items()]
    servers: list[TeacherServer] = []

    async def start() -> tuple[DirectoryServer, int]:
        directory = DirectoryServer(settle_s=0.0, lease_s=600.0)
        port = await directory.start("127.0.0.1", 0)
        for teacher in teachers:
            kind = teacher.description.kind
            servers.append(TeacherServer(teacher, replica_id=kind))
            address = f"127.0.0.1:{await servers[-1].start('127.0.0.1')}"
            lease = Lease(kind=kind, address=address, replica_id=kind, pid=1)
            await directory.service.renew(lease)
        return directory, port

    async def stop(directory: DirectoryServer) -> None:
        for server in servers:
            await server.drain(0.2)
        await directory.stop(0.2)

    loop = Loop("servers")
    directory, port = loop.run(start())
    try:
        yield f"127.0.0.1:{port}"
    finally:
        loop.run(stop(directory))
        loop.close()
