"""One teacher replica without Ray: the real server, a lease, and faults on demand.

python -m cluster.bench.fleet.replica --kind KIND --folder DIR --id ID --host HOST --run DIR
    [--listed-at HOST:PORT] [--answers FILE] [--seconds-per-row S] [--plugin MODULE]
    [--deterministic] [--tls DIR --token-file FILE]

RUN holds the Directory's socket. ID.ready appears there with the first lease, and names the address
on which the replica listens; ID.fault may name a fault. SIGTERM drains, as Serve's graceful stop
does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import signal
from pathlib import Path

import torch

from cluster.bench.fleet.directory import add_security, send
from cluster.bench.fleet.faults import FaultyServer
from cluster.bench.fleet.replay import PacedTeacher, ReplayTeacher, load_answers
from teacher_server.fleet.leases import DRAIN_S, RENEW_S, Lease
from teacher_server.replica.request_check import RequestLimits
from teacher_server.scoring.description import Teacher, support_size
from teacher_server.scoring.determinism import ALONE
from teacher_server.scoring.kinds import SERVED_KINDS, load_teacher
from trainer.common.atomic import write_text
from trainer.common.cli import run_main
from trainer.common.plugins import with_plugins
from trainer.kinds.table import TEACHER_KINDS
from trainer.security.addresses import address_of
from trainer.security.credentials import SecurityFiles

SOCKET_NAME = "directory.sock"


def ready_file(run: Path, replica_id: str) -> Path:
    """Is there once the Directory has the replica's lease, and holds the replica's address."""
    return run / f"{replica_id}.ready"


def fault_file(run: Path, replica_id: str) -> Path:
    """Names the replica's fault, if it has one."""
    return run / f"{replica_id}.fault"


async def serve(
    teacher: Teacher,
    replica_id: str,
    host: str,
    run: Path,
    *,
    listed_at: str | None,
    security: SecurityFiles,
    limits: RequestLimits,
    deterministic: bool,
) -> None:
    """Serve and hold the lease, of our own address or `listed_at`, until SIGTERM, then drain."""
    server = FaultyServer(
        teacher,
        replica_id=replica_id,
        fault_file=fault_file(run, replica_id),
        security=security,
        limits=limits,
    )
    server.set_batch_limits(ALONE if deterministic else {})
    address = address_of(host, await server.start(host))
    lease = Lease(
        kind=teacher.description.kind,
        address=listed_at or address,
        replica_id=replica_id,
        pid=os.getpid(),
        weights_digest=teacher.description.weights_digest,
    )
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    renewal = asyncio.create_task(_renew(lease, run, address))
    await stopped.wait()
    renewal.cancel()
    with contextlib.suppress(OSError):
        await send(run / SOCKET_NAME, {"release": replica_id})
    await server.drain(DRAIN_S)


async def _renew(lease: Lease, run: Path, address: str) -> None:
    ready = ready_file(run, lease.replica_id)
    while True:
        # Open streams go on without a Directory; it may be restarting.
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await send(run / SOCKET_NAME, {"renew": dataclasses.asdict(lease)})
            if not ready.exists():
                write_text(ready, address)
        await asyncio.sleep(RENEW_S)


def main(argv: list[str]) -> None:
    """Parse, load the teacher, serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--listed-at", metavar="HOST:PORT")
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--seconds-per-row", type=float, default=0.0)
    parser.add_argument("--plugin", action="append", default=[])
    parser.add_argument("--deterministic", action="store_true")
    add_security(parser)
    arguments = parser.parse_args(argv)
    security = SecurityFiles(tls=arguments.tls, token_file=arguments.token_file)
    torch.set_num_threads(1)
    kinds = with_plugins(SERVED_KINDS, arguments.plugin, "SERVED_KINDS")
    teacher = load_teacher(arguments.kind, arguments.folder, torch.device("cpu"), kinds=kinds)
    if arguments.answers is not None:
        teacher = ReplayTeacher(teacher, load_answers(arguments.answers))
    teacher = PacedTeacher(teacher, arguments.seconds_per_row)
    known = with_plugins(TEACHER_KINDS, arguments.plugin, "TEACHER_KINDS")
    limits = RequestLimits(support_size=support_size(teacher.description, known))
    asyncio.run(
        serve(
            teacher,
            arguments.id,
            arguments.host,
            arguments.run,
            listed_at=arguments.listed_at,
            security=security,
            limits=limits,
            deterministic=arguments.deterministic,
        )
    )


if __name__ == "__main__":
    run_main(main)
