"""The client's streams to the teachers: which replicas there are, and what goes over the wire.

Which of them are dialed is `dialing.py`'s, which one gets which request is `dispatch.py`'s, what a
request holds is `answers.py`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import Any

import grpc

from protos import codec, teacher_pb2, teacher_pb2_grpc
from protos.handshake import handshake_metadata
from protos.limits import MAX_MESSAGE_BYTES
from trainer.common.errors import InputError, TeacherUnavailable
from trainer.config.teachers import TeachersConfig
from trainer.security.channels import ChannelFactory, keepalive
from trainer.teacher_client.dialing import Dialing
from trainer.teacher_client.dispatch import Dispatcher
from trainer.teacher_client.expected_rows import ExpectedRows
from trainer.teacher_client.handshake import MetTeachers, Misfit
from trainer.teacher_client.masses import check_masses
from trainer.teacher_client.replica import END, Replica
from trainer.teacher_client.subset import Caller
from trainer.telemetry.client_counters import ClientCounters

logger = logging.getLogger(__name__)

CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    *keepalive(every_s=10.0, answer_s=5.0),
]
OTHER_CONTRACT = (
    f"must speak {teacher_pb2.DESCRIPTOR.package}, got another contract. Run the same release on "
    "both ends"
)
MISFITS = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED)
"""What a replica answers that will not serve this student as long as it lives."""
RETIRES = "it retires, for the runs that learn from it already"
RETRY_S = 0.5
DESCRIBE_S = 10.0
WANT_S = 5.0
LOOK_S = 1.0


class TeacherStreams:
    """Watches the Directory and keeps streams to a subset of the replicas that it lists."""

    def __init__(
        self,
        config: TeachersConfig,
        dispatcher: Dispatcher,
        met: MetTeachers,
        expected: Mapping[str, ExpectedRows],
        *,
        caller: Caller,
        counters: ClientCounters,
    ) -> None:
        """Streams for a client.

        Args:
            config: where the Directory is, and what protects the way there.
            dispatcher: hears of every replica and its replies.
            met: takes in, or refuses, the teacher of every replica.
            expected: what the rows of each teacher that is asked must be.
            caller: the rank, whose choice of replicas differs from that of others.
            counters: counts the streams.
        """
        self._config = config
        self._dispatcher = dispatcher
        self._met = met
        self._expected = expected
        self._counters = counters
        self._dialing = {name: Dialing(caller) for name in expected}
        self._dialed: set[str] = set()
        self._channels = ChannelFactory(config)
        self._listed: dict[str, teacher_pb2.Endpoint] = {}
        self._replicas: dict[str, Replica] = {}
        self._followed: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen_directory = asyncio.Event()
        self._directory_problem = "no answer"

    @property
    def listed_names(self) -> set[str]:
        """Teachers of which the Directory lists a replica now, or one that may be theirs."""
        may_fit = (it for it in self._listed.values() if not self._dispatcher.quarantine.holds(it))
        return {name for endpoint in may_fit for name in self._met.names(endpoint)}

    async def start(self) -> str:
        """Follow the Directory from now on; empty, or why it did not answer within `connect_s`."""
        self.spawn(self._watch_directory())
        self.spawn(self._want_missing())
        self.spawn(self._keep_dialing())
        try:
            await asyncio.wait_for(self._seen_directory.wait(), self._config.connect_s)
        except asyncio.TimeoutError:
            return (
                f"no Directory answers at {self._config.directory} within "
                f"{self._config.connect_s:g} s: {self._directory_problem}"
            )
        return ""

    async def stop(self) -> None:
        """Give up what is not answered, cancel every task and wait for them."""
        self._dispatcher.fail(TeacherUnavailable("the teacher client was closed."))
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch_directory(self) -> None:
        """Follow the fleet for good; log a lost Directory once, and look for it again."""
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
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    self._directory_problem = f"it {OTHER_CONTRACT}"
                if self._seen_directory.is_set() and not is_lost:
                    address, details = self._config.directory, error.details()
                    logger.warning("Directory %s lost, open streams go on: %s", address, details)
                is_lost = True
            await asyncio.sleep(RETRY_S)

    async def _want_missing(self) -> None:
        """Request from the Directory, again and again, the kinds that are needed and not there.

        This brings back a kind that is autoscaled to zero; for others it does nothing.
        """
        while True:
            await asyncio.sleep(RETRY_S)
            kinds = self._dispatcher.missing() if self._seen_directory.is_set() else []
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
                # The watch logs a Directory that is lost; the next turn tries again.
                logger.debug("the Directory did not hear what is missing: %s", error.details())

    def _update_fleet(self, fleet: teacher_pb2.Fleet) -> None:
        asked = [it for it in fleet.endpoints if self._met.names(it)]
        listed = {it.replica_id: it for it in asked if self._met.may_learn_from(it)}
        for endpoint in asked:
            if endpoint.replica_id not in listed:
                self._note_failure(endpoint, f"{endpoint.address}: {RETIRES}")
        # One that still has a stream may drain; `remove_replica` judges it.
        for replica_id in self._listed.keys() - listed.keys() - self._replicas.keys():
            self._dispatcher.on_gone(replica_id)
            self._met.on_gone(replica_id)
        self._listed = listed
        for replica in list(self._replicas.values()):
            self._dispatcher.set_draining(replica, replica.replica_id not in listed)
        self._end_where_none_fits()
        self._redial()
        self._dispatcher.changed.set()

    async def _keep_dialing(self) -> None:
        """Look every second for replicas that stalled or recovered, and for too few streams."""
        while True:
            await asyncio.sleep(LOOK_S)
            for name, dialing in self._dialing.items():
                loads = [len(replica.outstanding) for replica in self._streams_of(name).values()]
                dialing.on_look(loads, time.monotonic())
            self._redial()

    def _redial(self) -> None:
        """Follow the replicas that are chosen now, and release the streams beyond them."""
        if self._dispatcher.fatal is not None:
            return
        now_s, self._dialed = time.monotonic(), set()
        for name, dialing in self._dialing.items():
            streams = self._streams_of(name)
            dialing.on_listed(self._may_be(name))
            chosen = dialing.chosen(self._is_aside, streams, now_s)
            self._dialed.update(chosen)
            for replica in dialing.spare(chosen, streams, now_s):
                replica.release()
        # One follower per replica: one that was delisted and listed again still has its own.
        for replica_id in self._dialed - self._followed:
            self._followed.add(replica_id)
            endpoint = self._listed[replica_id]
            self._note_failure(endpoint, f"{endpoint.address}: its stream is not open yet")
            self.spawn(self._follow(endpoint))

    def _may_be(self, name: str) -> list[str]:
        """Ids of the listed replicas of a teacher, and of those that were not met and may be."""
        return [
            replica_id
            for replica_id, it in self._listed.items()
            if name in self._met.names(it) and not self._met.is_other(name, it)
        ]

    def _streams_of(self, name: str) -> dict[str, Replica]:
        """The streams of a teacher that take requests, by replica id."""
        return {
            replica_id: it
            for replica_id, it in self._replicas.items()
            if it.teacher == name and not (it.draining or it.is_released)
        }

    def _is_aside(self, replica_id: str) -> bool:
        return self._dispatcher.quarantine.holds(self._listed[replica_id])

    async def _follow(self, endpoint: teacher_pb2.Endpoint) -> None:
        """Hold a stream to one replica for as long as it is dialed."""
        while self._dispatcher.fatal is None and endpoint.replica_id in self._dialed:
            try:
                await self._connect(endpoint)
            except grpc.aio.AioRpcError as error:
                reason = f"{endpoint.address}: {error.code().name} {error.details()}"
                self._note_failure(endpoint, reason)
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                    self._put_aside(endpoint, f"{endpoint.address} refused: {error.details()}")
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    self._put_aside(endpoint, f"{endpoint.address} {OTHER_CONTRACT}.")
            except Misfit as misfit:
                self._put_aside(endpoint, str(misfit))
            except ValueError as error:
                self._dispatcher.fail(error)
            if endpoint.replica_id not in self._listed:
                self._met.on_gone(endpoint.replica_id)
            if endpoint.replica_id in self._dialed:
                for name in self._met.names(endpoint):
                    self._dialing[name].on_lost(endpoint.replica_id)
                self._redial()
            await asyncio.sleep(RETRY_S)
        self._followed.discard(endpoint.replica_id)

    def _put_aside(self, endpoint: teacher_pb2.Endpoint, reason: str) -> None:
        """The run goes on with those that fit; its follower ends, and no other one starts."""
        self._met.drop(endpoint.replica_id)
        self._note_failure(endpoint, f"{endpoint.address}: put aside")
        self._dispatcher.quarantine.put(endpoint, reason)
        self._end_where_none_fits()
        self._dispatcher.changed.set()

    def _note_failure(self, endpoint: teacher_pb2.Endpoint, reason: str) -> None:
        """Of the teacher that a replica is, or of all that it may be."""
        for name in self._met.names(endpoint):
            self._dispatcher.note_failure(name, reason)

    def _end_where_none_fits(self) -> None:
        """End the run if a teacher was never met, and none that is listed of its kind may fit.

        That is a mistake in a command, whose user should not wait for the end of patience.
        """
        for name, kind in self._met.kind_of.items():
            listed = [it for it in self._listed.values() if it.kind == kind]
            if not self._met.has_met(name) and self._dispatcher.quarantine.holds_all(listed):
                self._dispatcher.fail(InputError(self._dispatcher.quarantine.reasons(kind)))

    async def _connect(self, endpoint: teacher_pb2.Endpoint) -> None:
        """Shake hands, then serve one stream until it ends."""
        try:
            opened = self._channel(endpoint.address)
        except InputError as error:
            # Nothing protects the way there: of this replica alone.
            raise Misfit(str(error)) from error
        async with opened as channel:
            stub = teacher_pb2_grpc.TeacherStub(channel)
            described = await self._shake_hands(stub, endpoint)
            # During the handshake it may have been delisted or replaced, or begun to retire.
            if described is None or endpoint.replica_id not in self._dialed:
                return
            teacher = self._met.admit(described, f"at {endpoint.address}")
            for other in self._met.unmet(endpoint.kind):
                self._dispatcher.note_failure(other, f"{endpoint.address}: it is {teacher}")
            metadata = (*self._channels.metadata, *handshake_metadata(described))
            replica = Replica(teacher, endpoint.replica_id, endpoint.address)
            await self._serve_stream(stub.Score(metadata=metadata), replica)

    async def _shake_hands(
        self, stub: teacher_pb2_grpc.TeacherStub, endpoint: teacher_pb2.Endpoint
    ) -> teacher_pb2.Description | None:
        """What the teacher that answers there says of itself; None if it is another replica."""
        described = await stub.Describe(
            teacher_pb2.DescribeRequest(), timeout=DESCRIBE_S, metadata=self._channels.metadata
        )
        if (described.kind, described.replica_id) != (endpoint.kind, endpoint.replica_id):
            # The port of a replica that died, whose lease has not run out yet.
            self._dispatcher.on_gone(endpoint.replica_id)
            self._note_failure(
                endpoint, f"{endpoint.address}: {described.replica_id} answers there"
            )
            return None
        where = f"at {endpoint.address}"
        # Another vocabulary first: who serves the wrong data must not be sent after a mass.
        self._met.check(described, where)
        check_masses(described, where)
        return described

    async def _serve_stream(
        self, call: grpc.aio.StreamStreamCall[Any, Any], replica: Replica
    ) -> None:
        """Send what the dispatcher assigns and hand back the replies, until the stream ends."""
        writer = asyncio.create_task(_write(call, replica))
        self._replicas[replica.replica_id] = replica
        self._counters.streams_opened += 1
        self._dispatcher.add_replica(replica)
        self._dialing[replica.teacher].on_open(replica.replica_id, time.monotonic())
        self._redial()
        reason = "the stream ended"
        try:
            async for reply in call:
                await self._on_reply(replica, reply)
                if (replica.draining or replica.is_released) and not replica.outstanding:
                    return
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name} {error.details()}"
            # It lives and refuses: no request was the death of it.
            replica.draining |= error.code() in MISFITS
            raise
        finally:
            writer.cancel()
            call.cancel()
            self._counters.streams_ended += 1
            self._dispatcher.remove_replica(replica, reason)
            self._replicas.pop(replica.replica_id, None)

    async def _on_reply(self, replica: Replica, reply: teacher_pb2.ScoreReply) -> None:
        request = self._dispatcher.take(replica, reply.request_id)
        if request is None:
            return
        error = reply.error
        if reply.HasField("error") and error.code == teacher_pb2.ScoreError.INVALID_ARGUMENT:
            request.answer.set_exception(InputError(f"{replica.address}: {error.message}"))
        elif reply.HasField("error"):
            self._dispatcher.on_failure(replica, request, error.message)
        else:
            try:
                rows = await asyncio.to_thread(
                    self._expected[request.teacher].decode,
                    reply.block,
                    request.num_rows,
                    request.message.temperature or 1.0,
                )
            except codec.WireError as wire_error:
                self._dispatcher.on_bad_answer(replica, request, wire_error)
            else:
                self._met.note_answer(request.teacher)
                self._dispatcher.on_rows(request, rows, reply)

    def _channel(self, address: str) -> grpc.aio.Channel:
        return self._channels.aio(address, CHANNEL_OPTIONS)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a task until `stop`; its error ends the run."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """A task that failed must not leave the training thread waiting for ever."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._dispatcher.fail(error)


async def _write(call: grpc.aio.StreamStreamCall[Any, Any], replica: Replica) -> None:
    while True:
        message = await replica.outbox.get()
        if message is END:
            await call.done_writing()
            return
        request = replica.outstanding.get(message.request_id)
        if request is None or request.answer.done():
            # Reassigned, or answered, before its turn came.
            replica.take(message.request_id)
            continue
        try:
            await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The reader of the same stream sees the same end and reassigns the work.
            return
