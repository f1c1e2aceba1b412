"""Teachers that `protos.conformance` checks, and what it finds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from protos.conformance.outcomes import Check
from protos.conformance.run import CHECKS, Report, check_teacher
from teacher_server.replica.service import TeacherServer
from teacher_server.scoring.kinds import load_teacher
from tests.support import other_make
from tests.support.other_make import BigramTeacher
from trainer.security.channels import ChannelFactory
from trainer.security.credentials import NO_SECURITY, SecurityFiles
from trainer.teacher_client.loop import Loop

MANIFEST = {
    "vocab_size": 40,
    "base_vocab_size": 25,
    "num_items": 12,
    "vocabulary_digest": "vocabulary-a",
}
TIMEOUT_S = 60.0
# Servers allow a ping in this time, so that a test need not wait for long.
QUICK_PING_MS = 50
QUICK_PING_S = 0.1


@contextlib.contextmanager
def replica(kind: str, folder: Path, security: SecurityFiles = NO_SECURITY) -> Iterator[str]:
    """A replica of ours on a loop beside the test; its address."""
    loop = Loop("replica")
    server = None

    async def start() -> tuple[TeacherServer, int]:
        teacher = load_teacher(kind, folder, torch.device("cpu"))
        started = TeacherServer(teacher, replica_id="ours", security=security)
        return started, await started.start("127.0.0.1")

    try:
        server, port = loop.run(start())
        yield f"127.0.0.1:{port}"
    finally:
        if server is not None:
            loop.run(server.drain(0.0))
        loop.close()


@contextlib.contextmanager
def of_another_make(teacher: BigramTeacher, ping_ms: int = QUICK_PING_MS) -> Iterator[str]:
    """A teacher that is not ours; its address."""
    server, address = other_make.start(teacher, ping_ms)
    try:
        yield address
    finally:
        server.stop(0.0).wait()


def checked(
    address: str, checks: Sequence[Check] = CHECKS, files: SecurityFiles = NO_SECURITY
) -> Report:
    """What some checks, or all, say of the teacher at an address."""
    return check_teacher(address, ChannelFactory(files), timeout_s=TIMEOUT_S, checks=checks)


def failures(report: Report) -> dict[str, str]:
    """Why checks failed, by name."""
    return {each.name: each.detail for each in report.results if each.outcome == "failed"}


def skipped(report: Report) -> set[str]:
    """Names of those that the teacher need not pass."""
    return {each.name for each in report.results if each.outcome == "not applicable"}
