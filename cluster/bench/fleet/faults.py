"""A real teacher server into whose replies faults are injected while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from protos import codec, teacher_pb2
from protos.block_frame import MAGIC, Header
from teacher_server.replica.request_check import RequestLimits
from teacher_server.replica.service import ScoreContext, TeacherServer, TeacherService
from teacher_server.scoring.description import Teacher
from teacher_server.scoring.device_batches import BatchLimits
from trainer.common.errors import InputError
from trainer.security.credentials import SecurityFiles

Fault = Literal["none", "garbage", "short", "never"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
GARBAGE_BYTES = 300
# A round holds one or two of a student's requests: with all of them in one, targets would come in
# bursts of a second and speed could not be seen.
SMALL_ROUNDS = BatchLimits(token_budget=2048)


class FaultyService(TeacherService):
    """Scores as usual; a file names the fault of each reply at the time it is written."""

    fault_file: Path

    async def Score(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request_iterator: AsyncIterator[teacher_pb2.ScoreRequest], context: ScoreContext
    ) -> None:
        """The replies as the present fault leaves them."""
        faulty: Any = _FaultyContext(context, self.fault_file)
        await super().Score(request_iterator, faulty)


class _FaultyContext:
    """The part of a call's context that the service uses; replies get their fault when written."""

    def __init__(self, context: ScoreContext, fault_file: Path) -> None:
        self.invocation_metadata = context.invocation_metadata
        self.abort = context.abort
        self._write = context.write
        self._fault_file = fault_file

    async def write(self, reply: teacher_pb2.ScoreReply) -> None:
        sent = with_fault(reply, read_fault(self._fault_file))
        if sent is not None:
            await self._write(sent)


class FaultyServer(TeacherServer):
    """A TeacherServer around a FaultyService."""

    def __init__(
        self,
        teacher: Teacher,
        *,
        replica_id: str,
        fault_file: Path,
        security: SecurityFiles,
        limits: RequestLimits,
    ) -> None:
        super().__init__(
            teacher, replica_id=replica_id, batch_limits=SMALL_ROUNDS, security=security
        )
        self._service = FaultyService(
            teacher.description,
            self.batcher,
            counters=self.counters,
            device=self.device,
            replica_id=replica_id,
            limits=limits,
        )
        self._service.fault_file = fault_file


def read_fault(path: Path) -> Fault:
    """The fault that a file names; none where there is no file."""
    name = path.read_text().strip() if path.is_file() else "none"
    for fault in FAULTS:
        if name == fault:
            return fault
    raise InputError(f"{path} must name one of {', '.join(FAULTS)}, got {name!r}.")


def with_fault(reply: teacher_pb2.ScoreReply, fault: Fault) -> teacher_pb2.ScoreReply | None:
    """The message that replaces a reply; None: the reply is never sent."""
    if fault == "none" or not reply.HasField("block"):
        return reply
    if fault == "never":
        return None
    block = garbage(reply.request_id) if fault == "garbage" else without_last_row(reply.block)
    return teacher_pb2.ScoreReply(request_id=reply.request_id, block=block)


def garbage(seed: int) -> bytes:
    """Random bytes under a header that looks right, or random bytes alone."""
    noise = np.random.default_rng(seed).bytes(GARBAGE_BYTES)
    return MAGIC + noise if seed % 2 else noise


def without_last_row(block: bytes) -> bytes:
    """A block that is whole in itself and one row short."""
    header = Header.of(block)
    rows = codec.decode(block, num_rows=header.num_rows, vocab_size=header.vocab_size)
    # In whatever format: what is refused is the number of rows.
    return codec.encode(rows.take(np.arange(header.num_rows - 1)), codec.UINT8)
