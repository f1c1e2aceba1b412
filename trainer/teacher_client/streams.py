"""The client's streams to the teachers: who is there, whether they fit, what goes over the wire.

Which replica gets which request is `dispatch.py`'s; what is asked is `teacher_client.py`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

import grpc

from protos import codec, teacher_pb2, teacher_pb2_grpc
from protos.handshake import handshake_metadata
from protos.limits import MAX_MESSAGE_BYTES
from trainer.common.errors import TeacherUnavailable
from trainer.config.teachers import TeachersConfig
from trainer.data.model_input import InputLimits
from trainer.data.vocabulary import Vocabulary
from trainer.security.channels import ChannelFactory
from trainer.teacher_client.dispatch import Dispatcher
from trainer.teacher_client.expected_rows import ExpectedRows
from trainer.teacher_client.replica import Replica
from trainer.telemetry.client_counters import ClientCounters

logger = logging.getLogger(__name__)

CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]
RETRY_S = 0.5
DESCRIBE_S = 10.0
WANT_S = 5.0


class TeacherStreams:
    """Watches the Directory and keeps a stream to every replica that it lists."""

    def __init__(
        self,
        config: TeachersConfig,
        vocabulary: Vocabulary,
        graph_digest: str,
        expected: Mapping[str, ExpectedRows],
        counters: ClientCounters,
    ) -> None:
        self._kinds = tuple(expected)
        self.dispatcher = Dispatcher(config, counters, self._kinds)
        self._config = config
        self._channels = ChannelFactory(config)
        self._vocabulary = vocabulary
        self._graph_digest = graph_digest
        self._expected = expected
        self._listed: dict[str, teacher_pb2.Endpoint] = {}
        self._replicas: dict[str, Replica] = {}
        self._followed: set[str] = set()
        self.identity: dict[str, tuple[str, float]] = {}
        """Weights digest and temperature of each kind, from its first replica."""
        self.input_limits: dict[str, InputLimits] = {}
        self.described: dict[str, teacher_pb2.Description] = {}
        """What each kind said of itself last, or the cache knows of it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen_directory = asyncio.Event()
        self._directory_problem = "no answer"

    async def start(self, cached: Mapping[str, teacher_pb2.Description] | None = None) -> None:
        """Return once every kind has a replica.

        A kind of which the Directory lists none, or that is not asked because there is no
        Directory, may be one of `cached` instead: its replicas are met when they come, and must be
        the same teacher then.
        """
        cached = cached or {}
        self._spawn(self._watch_directory())
        self._spawn(self._want_missing())
        try:
            await asyncio.wait_for(self._seen_directory.wait(), self._config.connect_s)
        except asyncio.TimeoutError:
            reason = (
                f"no Directory answers at {self._config.directory} within "
                f"{self._config.connect_s:g} s: {self._directory_problem}"
            )
            if set(self._kinds) - cached.keys():
                raise TeacherUnavailable(
                    f"{reason}. Start the teachers (python -m teacher_server up --dialogue DIR "
                    "--recommendation DIR), set teachers.directory=HOST:PORT, or teachers.tls and "
                    "teachers.token_file as theirs."
                ) from None
            for kind in self._kinds:
                self.dispatcher.note_failure(kind, reason)
        self._spawn(self.dispatcher.guard_patience())
        self._rely_on(cached)
        while not self.dispatcher.is_complete():
            if self.dispatcher.fatal is not None:
                raise self.dispatcher.fatal
            self.dispatcher.changed.clear()
            await self.dispatcher.changed.wait()
            self._rely_on(cached)

    def _rely_on(self, cached: Mapping[str, teacher_pb2.Description]) -> None:
        """Take the teachers of the cache for the kinds of which none is listed."""
        listed = {endpoint.kind for endpoint in self._listed.values()}
        for kind in cached.keys() - listed - self.identity.keys():
            self._admit(cached[kind], "in the cache of targets")
            self.dispatcher.may_rest.add(kind)
            logger.warning(
                "no %s teacher is listed at %s: cached targets of the weights %s are used",
                *(kind, self._config.directory, cached[kind].weights_digest),
            )

    async def stop(self) -> None:
        """Give up what is not answered, cancel every task and wait for them."""
        self.dispatcher.fail(TeacherUnavailable("the teacher client was closed."))
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch_directory(self) -> None:
        """Follow the fleet for good; a lost Directory is told once, and looked for again."""
        is_lost = False
        while True:
            try:
                async with self._channel(self._config.directory) as channel:
                    stub = teacher_pb2_grpc.DirectoryStub(channel)
                    request, metadata = teacher_pb2.WatchRequest(), self._channels.metadata
                    async for fleet in stub.Watch(request, metadata=metadata):
                        is_lost = False
                        self._seen_directory.set()
                        self._update_fleet(fleet)
            except grpc.aio.AioRpcError as error:
                self._directory_problem = f"{error.code().name} {error.details()}"
                if self._seen_directory.is_set() and not is_lost:
                    address, details = self._config.directory, error.details()
                    logger.warning("Directory %s lost, open streams go on: %s", address, details)
                is_lost = True
            await asyncio.sleep(RETRY_S)

    async def _want_missing(self) -> None:
        """Tell the Directory, for as long as it is so, that a kind is needed and nobody is there.

        A kind that is autoscaled down to nobody comes back by this; of others it is no news.
        """
        while True:
            await asyncio.sleep(RETRY_S)
            kinds = self.dispatcher.missing() if self._seen_directory.is_set() else []
            if not kinds:
                continue
            try:
                async with self._channel(self._config.directory) as channel:
                    await teacher_pb2_grpc.DirectoryStub(channel).Want(
                        teacher_pb2.WantRequest(kinds=kinds),
                        timeout=WANT_S,
                        metadata=self._channels.metadata,
                    )
            except grpc.aio.AioRpcError as error:
                # The watch tells of a Directory that is lost; it is asked again when it is back.
                logger.debug("the Directory was not told what is missing: %s", error.details())

    def _update_fleet(self, fleet: teacher_pb2.Fleet) -> None:
        listed = {e.replica_id: e for e in fleet.endpoints if e.kind in self._kinds}
        self._listed = listed
        for replica in list(self._replicas.values()):
            self.dispatcher.set_draining(replica, replica.replica_id not in listed)
        # One follower for each replica: one that was delisted and listed again still has its own.
        for replica_id in listed.keys() - self._followed:
            self._followed.add(replica_id)
            self._spawn(self._follow(listed[replica_id]))
        self.dispatcher.changed.set()

    async def _follow(self, endpoint: teacher_pb2.Endpoint) -> None:
        """Hold a stream to one replica for as long as the Directory lists it."""
        while self.dispatcher.fatal is None:
            if endpoint.replica_id not in self._listed:
                self._followed.discard(endpoint.replica_id)
                return
            try:
                await self._connect(endpoint)
            except grpc.aio.AioRpcError as error:
                reason = f"{endpoint.address}: {error.code().name} {error.details()}"
                self.dispatcher.note_failure(endpoint.kind, reason)
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                    self.dispatcher.fail(ValueError(f"{endpoint.address}: {error.details()}"))
            except ValueError as error:
                self.dispatcher.fail(error)
            await asyncio.sleep(RETRY_S)

    async def _connect(self, endpoint: teacher_pb2.Endpoint) -> None:
        """Shake hands, then serve one stream until it ends."""
        async with self._channel(endpoint.address) as channel:
            stub = teacher_pb2_grpc.TeacherStub(channel)
            if not await self._shake_hands(stub, endpoint):
                return
            described = self.described[endpoint.kind]
            metadata = (*self._channels.metadata, *handshake_metadata(described))
            replica = Replica(endpoint.kind, endpoint.replica_id, endpoint.address)
            await self._serve_stream(stub.Score(metadata=metadata), replica)

    async def _shake_hands(
        self, stub: teacher_pb2_grpc.TeacherStub, endpoint: teacher_pb2.Endpoint
    ) -> bool:
        """Refuse a teacher whose ids do not mean what ours mean; False if another one answers."""
        described = await stub.Describe(
            teacher_pb2.DescribeRequest(), timeout=DESCRIBE_S, metadata=self._channels.metadata
        )
        if (described.kind, described.replica_id) != (endpoint.kind, endpoint.replica_id):
            # The port of a replica that died, whose lease has not run out yet.
            self.dispatcher.note_failure(
                endpoint.kind, f"{endpoint.address}: {described.replica_id} answers there"
            )
            return False
        self._admit(described, f"at {endpoint.address}")
        return True

    def _admit(self, described: teacher_pb2.Description, where: str) -> None:
        kind = described.kind
        ours, theirs = self._vocabulary.digest, described.vocabulary_digest
        if ours != theirs or described.vocab_size != self._vocabulary.size:
            raise ValueError(
                f"the {kind} teacher {where} must have the student's "
                f"vocabulary {ours} ({self._vocabulary.size} ids), got {theirs} "
                f"({described.vocab_size} ids). Serve teachers fitted on the same prepared data."
            )
        taken = described.max_tokens if kind == "dialogue" else described.max_entities
        if not taken:
            raise ValueError(
                f"the {kind} teacher {where} must take "
                f"{'tokens' if kind == 'dialogue' else 'entities'}, got a limit of 0. "
                "Serve it with the same version of this software."
            )
        if described.max_entities and described.graph_digest != self._graph_digest:
            raise ValueError(
                f"the {kind} teacher {where} must have the student's graph "
                f"{self._graph_digest}, got {described.graph_digest}. Serve a teacher fitted on "
                "the same prepared data."
            )
        identity = (described.weights_digest, described.temperature)
        known = self.identity.setdefault(kind, identity)
        if known != identity:
            raise ValueError(
                f"every {kind} replica must have the weights {known[0]} at temperature "
                f"{known[1]:g}, got {identity[0]} at {identity[1]:g} {where}. "
                "Serve one teacher at a time."
            )
        self.described[kind] = described
        self.input_limits[kind] = InputLimits.of(described)

    async def _serve_stream(
        self, call: grpc.aio.StreamStreamCall[Any, Any], replica: Replica
    ) -> None:
        """Send what the dispatcher assigns and hand back what comes, until the stream ends."""
        # It may have been delisted while hands were shaken.
        replica.draining = replica.replica_id not in self._listed
        writer = asyncio.create_task(_write(call, replica))
        self._replicas[replica.replica_id] = replica
        self.dispatcher.add_replica(replica)
        reason = "the stream ended"
        try:
            async for reply in call:
                await self._on_reply(replica, reply)
                if replica.draining and not replica.outstanding:
                    return
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name} {error.details()}"
            raise
        finally:
            writer.cancel()
            call.cancel()
            self.dispatcher.remove_replica(replica, reason)
            self._replicas.pop(replica.replica_id, None)

    async def _on_reply(self, replica: Replica, reply: teacher_pb2.ScoreReply) -> None:
        request = self.dispatcher.take(replica, reply.request_id)
        if request is None:
            return
        error = reply.error
        if reply.HasField("error") and error.code == teacher_pb2.ScoreError.INVALID_ARGUMENT:
            request.answer.set_exception(ValueError(f"{replica.address}: {error.message}"))
        elif reply.HasField("error"):
            self.dispatcher.on_failure(replica, request, error.message)
        else:
            try:
                rows = await asyncio.to_thread(
                    self._expected[request.kind].decode, reply.block, request.num_rows
                )
            except codec.WireError as wire_error:
                self.dispatcher.on_bad_answer(replica, request, wire_error)
            else:
                self.dispatcher.on_rows(request, rows, reply)

    def _channel(self, address: str) -> grpc.aio.Channel:
        return self._channels.aio(address, CHANNEL_OPTIONS)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """A task that failed must not leave the training thread waiting for ever."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self.dispatcher.fail(error)


async def _write(call: grpc.aio.StreamStreamCall[Any, Any], replica: Replica) -> None:
    while True:
        message = await replica.outbox.get()
        request = replica.outstanding.get(message.request_id)
        if request is None or request.answer.done():
            # It was given to another one, or answered, before its turn came.
            replica.take(message.request_id)
            continue
        try:
            await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The reader of the same stream meets the same end and hands the work on.
            return
