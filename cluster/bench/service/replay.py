"""Servers whose scoring is replaced by replay: recorded requests, recorded answers, real gRPC.

Each runs in a process of its own and sends its port to the parent through a queue.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import uvloop

from protos import codec, teacher_pb2, teacher_pb2_grpc
from protos.codec import TargetRows
from teacher_server.replica.batching import Batcher
from teacher_server.replica.device_health import DeviceHealth
from teacher_server.replica.request_check import RequestLimits
from teacher_server.replica.rpc import new_server
from teacher_server.replica.security import ServerSecurity
from teacher_server.replica.service import TeacherService
from teacher_server.replica.worker import Stage
from teacher_server.scoring.counters import ReplicaCounters
from teacher_server.scoring.device_batches import BatchLimits
from teacher_server.scoring.score_work import ScoreWork
from trainer.security.credentials import NO_SECURITY

Arm = Literal["bare", "blocks", "rows", "small"]
"""What answers: a bare grpc.aio handler; our service with recorded blocks; the same with recorded
rows, which it encodes; with blocks, in the small rounds that BatchLimits has by default."""
# As on a device that takes many requests at a time.
LARGE_ROUNDS = BatchLimits(token_budget=1 << 17)
START_S = 60.0
# The last ids identify a recorded request, so that a lookup costs next to nothing.
KEY_TOKENS = 32
KEY_BYTES = 4 * KEY_TOKENS


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Requests and the replies that a teacher gave to them, as serialised messages."""

    description: teacher_pb2.Description
    requests: tuple[bytes, ...]
    replies: tuple[bytes, ...]

    @property
    def bytes_per_exchange(self) -> float:
        """Mean bytes of a request and its reply."""
        return sum(map(len, (*self.requests, *self.replies))) / len(self.requests)


@contextlib.contextmanager
def serving(arm: Arm, recording: Recording) -> Iterator[tuple[str, int]]:
    """A server of one arm; its address and process id."""
    context = multiprocessing.get_context("spawn")
    ports: Any = context.Queue()
    process = context.Process(target=_serve, args=(arm, recording, ports), daemon=True)
    process.start()
    try:
        assert process.pid is not None
        yield f"127.0.0.1:{ports.get(timeout=START_S)}", process.pid
    finally:
        process.kill()
        process.join()


def _serve(arm: Arm, recording: Recording, ports: Any) -> None:
    torch.set_num_threads(1)
    # The event loop that Ray gives its actors.
    uvloop.run(_serve_until_killed(arm, recording, ports))


async def _serve_until_killed(arm: Arm, recording: Recording, ports: Any) -> None:
    server = new_server(ServerSecurity(NO_SECURITY))
    servicer = _Bare(recording) if arm == "bare" else _service(arm, recording)
    teacher_pb2_grpc.add_TeacherServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    # As a replica does (teacher_server/fleet/deployment.py).
    gc.freeze()
    await server.start()
    ports.put(port)
    await server.wait_for_termination()


class _Bare(teacher_pb2_grpc.TeacherServicer):
    """Answers a request with its recorded reply, and does nothing else."""

    def __init__(self, recording: Recording) -> None:
        self._replies = [teacher_pb2.ScoreReply.FromString(it) for it in recording.replies]

    async def Score(
        self, request_iterator: AsyncIterator[teacher_pb2.ScoreRequest], context: Any
    ) -> AsyncIterator[teacher_pb2.ScoreReply]:
        """One recorded reply per request."""
        async for request in request_iterator:
            yield self._replies[request.request_id % len(self._replies)]


def _service(arm: Arm, recording: Recording) -> TeacherService:
    requests = [teacher_pb2.ScoreRequest.FromString(it) for it in recording.requests]
    blocks = [teacher_pb2.ScoreReply.FromString(it).block for it in recording.replies]
    answers: dict[bytes, Any] = {}
    for request, block in zip(requests, blocks, strict=True):
        answers[request.token_ids[-KEY_BYTES:]] = (
            _rows(request, block, recording.description.vocab_size) if arm == "rows" else block
        )
    if len(answers) < len(requests):
        raise ValueError(f"requests must end differently, got {len(answers)} ends of them.")

    def replay(works: Sequence[ScoreWork], limits: BatchLimits) -> list[Any]:
        return [answers[work.columns.tokens.ids_N[-KEY_TOKENS:].tobytes()] for work in works]

    counters, device = ReplicaCounters(), DeviceHealth()
    limits = BatchLimits() if arm == "small" else LARGE_ROUNDS
    batcher: Batcher[Any] = Batcher(replay, limits, counters=counters, device=device)
    batcher.start()
    return TeacherService(
        recording.description,
        batcher,
        counters=counters,
        device=device,
        replica_id="replay",
        limits=RequestLimits(),
        encode=None if arm == "rows" else _recorded_stage(),
    )


def _recorded_stage() -> Stage[tuple[bytes, int], bytes]:
    return Stage(lambda item: item[0], "replay", is_short=lambda item: True)


def _rows(request: teacher_pb2.ScoreRequest, block: bytes, vocab_size: int) -> TargetRows:
    num_rows = sum(memoryview(request.range_lengths).cast("i"))
    return codec.decode(block, num_rows=num_rows, vocab_size=vocab_size)
