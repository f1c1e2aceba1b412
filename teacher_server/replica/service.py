"""The gRPC service of one teacher: check, join into device batches, score, reply.

A bad request gets a ScoreError; its stream and the server go on. A caller that expects another
vocabulary, wire version, weights or temperature is refused before anything is scored.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from grpc_health.v1.health import aio as grpc_health  # pyright: ignore

from protos import codec, teacher_pb2, teacher_pb2_grpc, version
from protos.codec import TargetRows
from protos.handshake import handshake_mismatch
from teacher_server.replica.batching import Batcher
from teacher_server.replica.device_health import DeviceHealth
from teacher_server.replica.metrics import PREFIX, RUN_PREFIX, ReplicaLevels
from teacher_server.replica.recent import Recent
from teacher_server.replica.request_check import RequestCheck, RequestLimits
from teacher_server.replica.rpc import new_server, start_server
from teacher_server.replica.runs import RunCounters
from teacher_server.replica.score_stream import NotReadError, Pipeline, ScoreStream
from teacher_server.replica.security import SERVER_REMEDY, ServerSecurity
from teacher_server.replica.worker import Stage
from teacher_server.scoring.counters import ReplicaCounters
from teacher_server.scoring.description import Teacher
from teacher_server.scoring.device_batches import BatchLimits, score_together
from trainer.security.addresses import address_of
from trainer.security.credentials import NO_SECURITY, SecurityFiles
from trainer.telemetry.counters import snapshot
from trainer.telemetry.exposition import add_groups, registry_of
from trainer.telemetry.metrics_http import MetricsServer
from trainer.telemetry.spans import Spans

SERVICE_NAME = teacher_pb2.DESCRIPTOR.services_by_name["Teacher"].full_name

# Checked on the event loop: some 16 examples, 50 us.
SHORT_REQUEST_BYTES = 16 << 10
# Encoded on the event loop: 60 us.
SHORT_ENTRIES = 1024

ScoreContext = grpc.aio.ServicerContext


def encoding_stage() -> Stage[tuple[TargetRows, int], bytes]:
    """Rows and a format of values -> a reply block."""
    return Stage(
        lambda item: codec.encode(*item),
        "teacher-encode",
        is_short=lambda item: len(item[0].ids_E) <= SHORT_ENTRIES,
    )


class TeacherService(teacher_pb2_grpc.TeacherServicer):
    """Describe and Score over one teacher and its batcher."""

    def __init__(
        self,
        description: teacher_pb2.Description,
        batcher: Batcher[Any],
        *,
        counters: ReplicaCounters,
        device: DeviceHealth,
        replica_id: str,
        limits: RequestLimits,
        encode: Stage[tuple[Any, int], bytes] | None = None,
        spans: Spans | None = None,
    ) -> None:
        self.description = _of_replica(description, replica_id)
        self.metrics_address = ""
        self._started_s = time.monotonic()
        self._unused_since_s = self._started_s
        self.pipeline = Pipeline(
            check=Stage(
                RequestCheck(description, limits),
                "teacher-check",
                is_short=lambda request: request.ByteSize() <= SHORT_REQUEST_BYTES,
            ),
            batcher=batcher,
            encode=encode or encoding_stage(),
            counters=counters,
            device=device,
            draining=asyncio.Event(),
            spans=spans,
            kind=description.kind,
        )
        self._replica_id = replica_id
        self.recent = Recent(lambda: snapshot(counters))

    @property
    def unused_s(self) -> float:
        """Time since the last stream of a student ended, 0 while there is one."""
        is_used = self.pipeline.counters.streams > 0
        return 0.0 if is_used else time.monotonic() - self._unused_since_s

    def close(self) -> None:
        """End the threads once they are idle."""
        self.recent.close()
        self.pipeline.check.close()
        self.pipeline.encode.close()

    async def Describe(
        self, request: teacher_pb2.DescribeRequest, context: ScoreContext
    ) -> teacher_pb2.Description:
        """The sizes of this teacher, and the digests of the handshake."""
        return self.description

    async def Stats(
        self, request: teacher_pb2.StatsRequest, context: ScoreContext
    ) -> teacher_pb2.ReplicaStats:
        """The counters of this replica since it started, and its present queue."""
        batcher, counters = self.pipeline.batcher, self.pipeline.counters
        recent_s, recent = self.recent.grown()
        return teacher_pb2.ReplicaStats(
            replica_id=self._replica_id,
            uptime_s=time.monotonic() - self._started_s,
            counters=snapshot(counters),
            gauges=snapshot(ReplicaLevels.of(batcher, counters, self.pipeline.replies)),
            metrics_address=self.metrics_address,
            runs={
                run_id: teacher_pb2.RunStats(counters=snapshot(of_run))
                for run_id, of_run in batcher.runs.now().items()
            },
            recent_s=recent_s,
            recent=recent,
        )

    async def Score(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request_iterator: AsyncIterator[teacher_pb2.ScoreRequest], context: ScoreContext
    ) -> None:
        """Reply to each request of the stream, in the order in which they are done.

        It writes replies itself instead of yielding them: one task less to wake for each.
        """
        mismatch = handshake_mismatch(context.invocation_metadata() or (), self.description)
        if mismatch:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, mismatch)
        counters = self.pipeline.counters
        counters.streams += 1
        problem = ""
        try:
            await ScoreStream(self.pipeline, request_iterator, context.write).serve()
        except NotReadError as error:
            problem = str(error)
        finally:
            counters.streams -= 1
            self._unused_since_s = time.monotonic()
        if problem:
            # It holds nothing of ours any more; gRPC sends this behind what is not read yet.
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, problem)
        if self.pipeline.draining.is_set():
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, "this replica is draining; send the rest elsewhere."
            )


class TeacherServer:
    """One teacher behind a grpc.aio server of its own, with health and reflection."""

    def __init__(
        self,
        teacher: Teacher,
        *,
        replica_id: str,
        batch_limits: BatchLimits | None = None,
        request_limits: RequestLimits | None = None,
        security: SecurityFiles = NO_SECURITY,
        counters: ReplicaCounters | None = None,
        spans: Spans | None = None,
    ) -> None:
        """A server that is not yet bound; `spans` is closed when it drains."""
        self.counters = counters or ReplicaCounters()
        self.device = DeviceHealth()
        self.batcher = Batcher(
            functools.partial(score_together, teacher.score, counters=self.counters),
            batch_limits or BatchLimits(),
            counters=self.counters,
            device=self.device,
        )
        self._service = TeacherService(
            teacher.description,
            self.batcher,
            counters=self.counters,
            device=self.device,
            replica_id=replica_id,
            limits=request_limits or RequestLimits(),
            spans=spans,
        )
        self._spans = spans
        self._health = grpc_health.HealthServicer()
        self._security_files = security
        self._metrics: MetricsServer | None = None
        self._security = ServerSecurity(security)
        self._server = new_server(self._security)
        self._ended: asyncio.Task[bool] | None = None

    @property
    def description(self) -> teacher_pb2.Description:
        """What Describe answers."""
        return self._service.description

    @property
    def unused_s(self) -> float:
        """Time since the last stream of a student ended, 0 while there is one."""
        return self._service.unused_s

    @property
    def problem(self) -> str:
        """Why the replica cannot answer; empty if it can."""
        if self._ended is None or self._ended.done():
            return "its gRPC server is not up"
        return self.batcher.problem

    def set_batch_limits(self, limits: Mapping[str, Any]) -> None:
        """Change some limits (fields of BatchLimits) from the next round on."""
        self.batcher.limits = dataclasses.replace(self.batcher.limits, **limits)

    async def start(self, host: str, *ports: int) -> int:
        """Listen on the first of the ports that is free (none or 0: any one); returns it.

        Raises:
            OSError: if none can be bound.
            ValueError: if the host is beyond this machine and nothing protects what comes there.
        """
        teacher_pb2_grpc.add_TeacherServicer_to_server(self._service, self._server)
        addresses = [address_of(host, port) for port in ports or (0,)]
        port = await start_server(
            self._server, self._health, SERVICE_NAME, *addresses, security=self._security
        )
        self.batcher.start()
        self._service.recent.start()
        self._ended = asyncio.create_task(self._server.wait_for_termination())
        return port

    def serve_metrics(self, host: str, port: int = 0) -> str:
        """Serve Prometheus metrics at host:port (0: a free one); returns the address.

        Raises:
            OSError: if the address cannot be bound.
            ValueError: if it is beyond this machine and nothing protects what is read there.
        """
        labels = {"kind": self._service.description.kind}
        registry = registry_of(PREFIX, labels, self._numbers)
        add_groups(
            registry, RUN_PREFIX, labels, RunCounters, by="run", groups=self.batcher.runs.now
        )
        self._metrics = MetricsServer(
            registry,
            host=host,
            port=port,
            security=self._security_files,
            remedy=SERVER_REMEDY,
        )
        self._service.metrics_address = self._metrics.address
        return self._metrics.address

    def _numbers(self) -> tuple[ReplicaCounters, ReplicaLevels]:
        replies = self._service.pipeline.replies
        return self.counters, ReplicaLevels.of(self.batcher, self.counters, replies)

    async def drain(self, grace_s: float) -> None:
        """Reply to accepted requests, end streams with UNAVAILABLE, then stop."""
        await self._health.enter_graceful_shutdown()
        self._service.pipeline.draining.set()
        await self._server.stop(grace_s)
        await self.batcher.close()
        self._service.close()
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)


def _of_replica(teacher: teacher_pb2.Description, replica_id: str) -> teacher_pb2.Description:
    """The Description of one replica of a teacher."""
    described = teacher_pb2.Description()
    described.CopyFrom(teacher)
    described.replica_id, described.wire_version = replica_id, version.WIRE_VERSION
    described.oldest_wire_version = version.OLDEST_WIRE_VERSION
    return described
