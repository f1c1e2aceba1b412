"""The fleet on Ray Serve: a Directory, and one application per kind of teacher.

Serve keeps replicas alive, places and scales them; the data path is the grpc.aio server inside
every replica. Torch is imported only in the replicas: the commands that talk to Serve stay light.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import os
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import RayServeException

from teacher_server.fleet.directory import (
    DIRECTORY_APP,
    DIRECTORY_DEPLOYMENT,
    new_deployment,
)
from teacher_server.fleet.groups import APP_PREFIX, kind_of
from teacher_server.fleet.leases import DRAIN_S, RENEW_S, Lease
from teacher_server.fleet.pins import check_pin, pin_of
from teacher_server.fleet.ray_private import with_version
from teacher_server.replica.load import UNUSED_S
from teacher_server.scoring.counters import ReplicaCounters
from teacher_server.scoring.kinds import SERVED_KINDS, load_teacher
from trainer.common.errors import InputError
from trainer.common.plugins import with_plugins
from trainer.kinds.names import FLOAT32
from trainer.security.addresses import address_of, is_loopback
from trainer.security.credentials import SecurityFiles
from trainer.telemetry.spans import Spans

if TYPE_CHECKING:
    from teacher_server.replica.service import TeacherServer

logger = logging.getLogger("ray.serve")

# Well under the lease: one slow renewal must not delist a healthy replica.
RENEW_TIMEOUT_S = 1.5


@dataclass(frozen=True, kw_only=True)
class ReplicaOptions:
    """Options of every replica of one kind."""

    kind: str
    folder: str
    host: str = "127.0.0.1"
    """Where the replica's own gRPC server listens; if not a loopback, on its node's own address."""
    num_threads: int = 1
    """Torch threads of the replica's forward pass."""
    metrics_host: str = ""
    """Where it serves Prometheus metrics, as `host`; empty: nowhere."""
    spans: str = ""
    """OTLP/HTTP receiver of its OpenTelemetry spans; empty: no spans."""
    num_cpus: float = 0.5
    num_gpus: float = 0.0
    """Above 1 its layers spread over so many."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Of the nodes that are for its kind, by Ray's names."""
    ports: Sequence[int] = ()
    """First and last of those that its gRPC server may listen on; none: a free one."""
    dtype: str = FLOAT32
    """Of the teacher's weights and forward, one of those of its kind."""
    deterministic: bool = False
    """Every operation gives the same bits each time; the batch limits do the rest."""
    plugins: Sequence[str] = ()
    """Modules that add kinds of teachers: the one of `kind` among them."""
    pin: Mapping[str, str | float] = field(default_factory=dict)
    """The teacher that the fleet was started with: fields of pins.Pin; empty: any."""


def app_name(group: str) -> str:
    """The Serve application of a group of replicas."""
    return f"{APP_PREFIX}{group}"


def deployment_name(group: str) -> str:
    """The deployment in it, e.g. DialogueTeacher."""
    return "".join(part.capitalize() for part in kind_of(group).split("-")) + "Teacher"


def port_range(ports: Sequence[int]) -> Sequence[int]:
    """From the first to the last port; none: of none."""
    return range(ports[0], ports[1] + 1) if ports else ()


def local_host(host: str) -> str:
    """The address that a process on this node listens on and announces."""
    return host if is_loopback(host) else ray.util.get_node_ip_address()


class TeacherReplica:
    """Serve's actor of one teacher: starts and stops its gRPC server and renews its lease."""

    def __init__(self, options: dict[str, Any], security: dict[str, Any]) -> None:
        # First, because __del__ also runs on a replica whose teacher could not be loaded.
        self._renewal: asyncio.Task[None] | None = None
        self._options = ReplicaOptions(**options)
        context = serve.get_replica_context()
        self._replica_id = context.replica_id.unique_id
        self._server = _build_server(self._options, self._replica_id, SecurityFiles(**security))
        self._directory = serve.get_deployment_handle(DIRECTORY_DEPLOYMENT, DIRECTORY_APP)

    async def reconfigure(self, limits: dict[str, Any]) -> None:
        """Serve's asynchronous hook, run before the replica counts as healthy.

        The first call starts the gRPC server on this event loop; a later one changes the batching
        limits of the running replica.
        """
        self._server.set_batch_limits(limits)
        if self._renewal is not None:
            return
        host = local_host(self._options.host)
        # The teacher stays loaded: no garbage collection need walk its objects again.
        gc.freeze()
        port = await self._server.start(host, *port_range(self._options.ports))
        if self._options.metrics_host:
            self._server.serve_metrics(local_host(self._options.metrics_host))
        lease = Lease(
            kind=self._options.kind,
            address=address_of(host, port),
            replica_id=self._replica_id,
            pid=os.getpid(),
            weights_digest=self._server.description.weights_digest,
        )
        # Listed before it counts as running: then Serve may stop the one that it replaces.
        await self._renew_once(dataclasses.asdict(lease))
        self._renewal = asyncio.create_task(self._renew(dataclasses.asdict(lease)))

    def wake(self) -> None:
        """No-op. Calling it is enough to make Serve start a replica."""

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's hook for metrics of our own, the input of the policies in autoscaling.py."""
        return {**self._server.batcher.report_load(), UNUSED_S: self._server.unused_s}

    async def check_health(self) -> None:
        """Raises if the gRPC server, the device or the renewal stopped; Serve then restarts us."""
        problem = self._server.problem
        if self._renewal is None or self._renewal.done():
            problem = "its lease is no longer renewed"
        if problem:
            raise RuntimeError(f"a {self._options.kind} replica must answer, got none: {problem}.")

    async def _renew(self, lease: dict[str, Any]) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self._renew_once(lease)

    async def _renew_once(self, lease: dict[str, Any]) -> None:
        try:
            await _within(RENEW_TIMEOUT_S, self._directory.renew.remote(lease))
        except (RayError, RayServeException, asyncio.TimeoutError) as error:
            # Open streams work without a Directory, which may be restarting.
            logger.warning("The Directory did not renew our lease: %r. Trying again.", error)

    async def __del__(self) -> None:
        # Serve awaits this on a graceful stop: first no new callers, then no more work.
        if self._renewal is None:
            return
        self._renewal.cancel()
        try:
            await _within(1.0, self._directory.release.remote(self._replica_id))
        except (RayError, RayServeException, asyncio.TimeoutError):
            logger.info("The Directory did not release our lease; it will expire.")
        await self._server.drain(DRAIN_S)


def teacher_app(
    options: ReplicaOptions,
    *,
    group: str,
    autoscaling: AutoscalingConfig | None,
    batch_limits: dict[str, Any],
    security: SecurityFiles,
    version: str,
    has_surge: bool = False,
) -> serve.Application:
    """The application of one group of replicas; without autoscaling, of one to turn off.

    Serve replaces the replicas of another version, with `has_surge` each once a new one runs.
    """
    deployment = new_deployment(
        TeacherReplica,
        name=deployment_name(group),
        num_replicas=None,
        autoscaling=autoscaling,
        actor_options={
            "num_cpus": options.num_cpus,
            "num_gpus": options.num_gpus,
            "resources": dict(options.resources),
        },
        user_config=batch_limits,
        max_ongoing_requests=4,
        has_surge=has_surge,
    )
    deployment = with_version(deployment, version)
    return deployment.bind(dataclasses.asdict(options), dataclasses.asdict(security))


async def _within(timeout_s: float, response: Awaitable[Any]) -> None:
    async def answer() -> None:
        await response

    await asyncio.wait_for(answer(), timeout_s)


def _build_server(
    options: ReplicaOptions, replica_id: str, security: SecurityFiles
) -> TeacherServer:
    # Imported here: torch and transformers take seconds and 300 MB, and neither the commands nor
    # the Directory use them.
    import torch

    from teacher_server.replica.request_check import RequestLimits
    from teacher_server.replica.service import TeacherServer
    from teacher_server.scoring.description import support_size
    from teacher_server.scoring.determinism import compute_deterministically
    from trainer.kinds.table import TEACHER_KINDS

    if options.num_gpus and not torch.cuda.is_available():
        raise InputError(
            f"a replica with num_gpus {options.num_gpus:g} must see a CUDA device, got none. "
            "Install a CUDA build of torch on the teacher nodes, or give --num-gpus 0."
        )
    if options.num_gpus > 1 and torch.cuda.device_count() < options.num_gpus:
        raise InputError(
            f"a replica with num_gpus {options.num_gpus:g} must see so many CUDA devices, got "
            f"{torch.cuda.device_count()}. Look at CUDA_VISIBLE_DEVICES of the teacher nodes."
        )
    # The number is a part of how sums are grouped: an answer's bits depend on it.
    torch.set_num_threads(options.num_threads)
    if options.deterministic:
        compute_deterministically()
    device = torch.device("cuda" if options.num_gpus else "cpu")
    further: list[torch.device] = []
    if options.num_gpus > 1:
        device, *further = (torch.device("cuda", at) for at in range(int(options.num_gpus)))
    spans = None
    if options.spans:
        spans = Spans(options.spans, service=f"conkd-{options.kind}", instance=replica_id)
    counters = ReplicaCounters()
    kinds = with_plugins(SERVED_KINDS, options.plugins, "SERVED_KINDS")
    folder = Path(options.folder)
    teacher = load_teacher(
        options.kind,
        folder,
        device,
        dtype=options.dtype,
        counters=counters,
        kinds=kinds,
        further=further,
    )
    # A plugin's teacher may not name its type; then it is the one that was asked for.
    dtype = teacher.description.dtype or options.dtype
    check_pin(options.kind, folder, options.pin, pin_of(teacher.description, folder, dtype))
    known = with_plugins(TEACHER_KINDS, options.plugins, "TEACHER_KINDS")
    return TeacherServer(
        teacher,
        replica_id=replica_id,
        request_limits=RequestLimits(support_size=support_size(teacher.description, known)),
        security=security,
        counters=counters,
        spans=spans,
    )
