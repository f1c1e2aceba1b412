"""Which replica gets which request, and what happens when it does not answer.

The policy of the teacher client without any gRPC in it: least outstanding work, a deadline for a
replica that answers nothing, sending again elsewhere, a limit on bad answers, patience when a
teacher has no replica left.
Everything here runs on one event loop and needs no lock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from protos import codec, teacher_pb2
from trainer.common.errors import TeacherUnavailable
from trainer.config.teachers import TeachersConfig
from trainer.teacher_client.hedging import Hedging
from trainer.teacher_client.patience import Patience
from trainer.teacher_client.quarantine import Quarantine
from trainer.teacher_client.replica import Replica, Request
from trainer.telemetry.client_counters import ClientCounters

logger = logging.getLogger(__name__)

INT32_BYTES = 4
CHECK_S = 0.5
# A bad answer is retried once on another replica; a second one means that it was not chance.
MAX_BAD_ANSWERS = 2
# A device that computes nonsense answers at once, and as the least busy would draw all the work.
AVOIDED_S = 30.0
# A failed device is restarted within seconds; without another replica it is retried this often.
RETRY_S = 5.0
# A delisted replica that answers nothing for so long is dead; one that drains goes on answering.
DELISTED_S = 2.0


class Dispatcher:
    """The live replicas and the requests between them."""

    def __init__(
        self,
        config: TeachersConfig,
        counters: ClientCounters,
        kind_of: Mapping[str, str],
        *,
        positions_of: str = "",
    ) -> None:
        """A dispatcher without replicas.

        Args:
            config: deadline, patience, hedging.
            counters: counts what is sent.
            kind_of: name of each teacher that is asked -> its kind.
            positions_of: the kind whose rows are counted as response positions; empty: none.
        """
        self.fatal: Exception | None = None
        """The error that ends the run: every caller gets it, now and later."""
        self.changed = asyncio.Event()
        """Set whenever a replica came or the run was ended."""
        self.optional: set[str] = set()
        """Teachers that need no replica while no request to them is open: a cache answers, or they
        were met before and may be scaled to zero meanwhile."""
        self.quarantine = Quarantine(counters)
        """Replicas that do not fit: they are never added."""
        self._config = config
        self._counters = counters
        self._kind_of = kind_of
        self._positions_of = positions_of
        self._live: dict[str, set[Replica]] = {name: set() for name in kind_of}
        self._waiting: dict[str, list[Request]] = {name: [] for name in kind_of}
        self._unanswered: dict[int, Request] = {}
        self._patience = Patience(config.patience_s)
        self._hedging = Hedging(config.hedge_percent)
        self._last_reason: dict[str, str] = dict.fromkeys(kind_of, "the Directory lists none")

    def note_failure(self, name: str, reason: str) -> None:
        """Why the last try to reach a replica failed; part of the error once no other is left."""
        self._last_reason[name] = reason

    def is_complete(self) -> bool:
        """Whether every teacher has a live replica or is optional."""
        return all(self._open(name) or name in self.optional for name in self._live)

    def missing(self) -> list[str]:
        """Kinds of the teachers that are needed now and have no replica."""
        names = [it for it in self._live if not self._open(it) and not self._is_optional(it)]
        return list(dict.fromkeys(self._kind_of[name] for name in names))

    def add_replica(self, replica: Replica) -> None:
        """A stream opened: assign it work, first the requests that had to wait."""
        self._live[replica.teacher].add(replica)
        for request in self._unanswered.values():
            request.losses.on_alive(replica.replica_id)
        self._on_open(replica.teacher)

    def set_draining(self, replica: Replica, draining: bool) -> None:
        """Mark the replica as draining (delisted) or available again.

        A replica is delisted when it says goodbye, and when it died without a word. What the latter
        holds is sent to others as well, and the first answer counts.
        """
        if draining and not replica.draining:
            later = asyncio.get_running_loop().call_later
            later(DELISTED_S, self._hand_on, replica, time.monotonic())
        replica.draining = draining
        if not draining:
            self._on_open(replica.teacher)

    def _hand_on(self, replica: Replica, delisted_s: float) -> None:
        if not replica.draining or replica.last_answer_s > delisted_s or not replica.outstanding:
            return
        replica.stalled = True
        self._share(replica)

    def _share(self, replica: Replica) -> None:
        """Send what a silent, delisted replica holds to others too; the first answer counts."""
        for request in replica.outstanding.values():
            others = [it for it in self._open(request.teacher) if it not in request.assigned_to]
            if others and len(request.assigned_to) == 1 and not request.answer.done():
                self._log_leaving(request, replica, "it is not listed and answers nothing")
                self._counters.resends += 1
                self._send(request, min(others, key=lambda it: len(it.outstanding)))

    def remove_replica(self, replica: Replica, reason: str) -> None:
        """A stream ended: reassign what it did not answer."""
        self._live[replica.teacher].discard(replica)
        self.note_failure(replica.teacher, f"{replica.address}: {reason}")
        for request_id in list(replica.outstanding):
            request = replica.take(request_id)
            assert request is not None
            request.assigned_to.discard(replica)
            # One that drains says farewell; one that fell silent after it was delisted did not.
            if not replica.draining or replica.stalled:
                request.losses.on_end(replica.replica_id, time.monotonic())
            if replica.draining:
                request.losses.on_gone(replica.replica_id)
            if not self._ends_as_deadly(request):
                self._resend(request, replica, reason)

    def on_gone(self, replica_id: str) -> None:
        """A process without a stream is no more: delisted, or another one has its address."""
        for request in list(self._unanswered.values()):
            request.losses.on_gone(replica_id)
            self._ends_as_deadly(request)

    def _ends_as_deadly(self, request: Request) -> bool:
        """Fail a request that killed too many, before it kills whoever has it now."""
        if request.losses.is_deadly and not request.answer.done():
            size, names = request.message.ByteSize(), ", ".join(sorted(request.losses.dead))
            request.answer.set_exception(
                TeacherUnavailable(
                    f"{len(request.losses.dead)} {request.teacher} replicas ended while they had a "
                    f"request of {request.num_rows} rows and {size} bytes: {names} (the last word: "
                    f"{self._last_reason[request.teacher]}). Look at their logs, and at "
                    "train.micro_batch_size if memory ran out."
                )
            )
        return request.losses.is_deadly

    async def score(
        self, teacher: str, message: teacher_pb2.ScoreRequest, num_rows: int
    ) -> codec.TargetRows:
        """The rows of one request, from any replica."""
        if self.fatal is not None:
            raise self.fatal
        answer: asyncio.Future[codec.TargetRows] = asyncio.get_running_loop().create_future()
        request = Request(teacher=teacher, message=message, num_rows=num_rows, answer=answer)
        self._counters.requests += 1
        self._unanswered[message.request_id] = request
        try:
            self._assign(request)
            return await answer
        finally:
            del self._unanswered[message.request_id]

    def take(self, replica: Replica, request_id: int) -> Request | None:
        """The request that a reply of this replica answers; None if it is answered already.

        An answer after its deadline counts too: else slow replicas would pass a request round for
        ever. Another replica that has the request keeps it: this answer may be bad, and until its
        own answer comes that replica is as busy as before.
        """
        replica.on_answer()
        replica.take(request_id)
        request = self._unanswered.get(request_id)
        if request is None or request.answer.done():
            return None
        request.assigned_to.discard(replica)
        return request

    def on_rows(
        self, request: Request, rows: codec.TargetRows, reply: teacher_pb2.ScoreReply
    ) -> None:
        """A good answer; the second answer to a request that was sent twice is dropped."""
        self._counters.wire_bytes += reply.ByteSize()
        self._counters.request_bytes += request.message.ByteSize()
        if request.answer.done():
            return
        answer_s = time.monotonic() - request.asked_s
        self._hedging.note(request.teacher, answer_s)
        self._counters.answer_s += answer_s
        self._counters.queue_s += reply.queue_s
        self._counters.forward_s += reply.forward_s
        if self._kind_of[request.teacher] == self._positions_of:
            self._counters.positions += rows.num_rows
            self._counters.teacher_tokens += len(request.message.token_ids) // INT32_BYTES
        request.answer.set_result(rows)

    def on_bad_answer(self, replica: Replica, request: Request, error: codec.WireError) -> None:
        """Garbage: retry once on another replica, then stop the run."""
        request.bad_answers += 1
        self._avoid(replica, request)
        if request.bad_answers < MAX_BAD_ANSWERS or request.assigned_to:
            # If another replica still has it, that answer decides.
            self._resend(request, replica, str(error))
        elif not request.answer.done():
            text = f"{replica.address} answered badly, and so was the answer before: {error}"
            request.answer.set_exception(codec.WireError(text))

    def on_failure(self, replica: Replica, request: Request, reason: str) -> None:
        """Retry on another replica; once all have failed it, retry any until patience runs out.

        A device may recover or be restarted, so patience decides, as if the replica did not answer.
        """
        self.note_failure(request.teacher, f"{replica.address}: {reason}")
        self._avoid(replica, request)
        now_s = time.monotonic()
        request.failing_since_s = min(request.failing_since_s, now_s)
        patience_s = self._config.patience_s
        if any(other.replica_id not in request.failed_at for other in self._open(request.teacher)):
            self._resend(request, replica, reason)
        elif now_s - request.failing_since_s <= patience_s:
            later = asyncio.get_running_loop().call_later
            later(RETRY_S, self._resend, request, replica, reason)
        elif not request.assigned_to and not request.answer.done():
            request.answer.set_exception(
                TeacherUnavailable(
                    f"no {request.teacher} teacher could answer a request of {request.num_rows} "
                    f"rows for {patience_s:g} s (the last: {replica.address}: {reason}). Look at "
                    "its log; the same command goes on from the last checkpoint."
                )
            )

    def _avoid(self, replica: Replica, request: Request) -> None:
        request.failed_at.add(replica.replica_id)
        replica.avoided_until_s = time.monotonic() + AVOIDED_S

    def fail(self, error: Exception) -> None:
        """End the run: every request, now and later, raises this error."""
        self.fatal = self.fatal or error
        self.changed.set()
        for request in self._unanswered.values():
            if not request.answer.done():
                request.answer.set_exception(self.fatal)

    async def guard_patience(self) -> None:
        """Fail when a teacher has had no live replica for longer than `teachers.patience_s`."""
        while self.fatal is None:
            for name in self._live:
                self._check_patience(name, time.monotonic())
            await asyncio.sleep(CHECK_S)

    def _check_patience(self, name: str, now: float) -> None:
        if self._is_optional(name) or any(not replica.stalled for replica in self._open(name)):
            self._patience.on_served(name)
            return
        reason, aside = self._last_reason[name], self.quarantine.reasons(self._kind_of[name])
        error = self._patience.on_missing(name, now, reason, aside)
        if error is not None:
            self.fail(error)

    def _is_optional(self, name: str) -> bool:
        return name in self.optional and all(r.teacher != name for r in self._unanswered.values())

    def _open(self, name: str) -> list[Replica]:
        return [it for it in self._live[name] if not (it.draining or it.is_released)]

    def _on_open(self, name: str) -> None:
        """A replica came: assign what waits, and what is overdue at a stalled one."""
        self.changed.set()
        waiting, self._waiting[name] = self._waiting[name], []
        for request in waiting:
            if not request.answer.done():
                self._assign(request)
        overdue_s = time.monotonic() - self._config.deadline_s
        for replica in [it for it in self._live[name] if it.stalled]:
            if replica.draining:
                self._share(replica)
            for request in list(replica.outstanding.values()):
                if request.asked_s <= overdue_s:
                    self._on_deadline(replica, request)

    def _assign(self, request: Request) -> None:
        """Assign a request to the least busy replica, or let it wait for one."""
        candidates = self._open(request.teacher)
        if not candidates:
            self._waiting[request.teacher].append(request)
            return
        now_s = time.monotonic()
        replica = min(
            candidates,
            key=lambda r: (
                r.replica_id in request.failed_at,
                r.stalled,
                r.avoided_until_s > now_s,
                len(r.outstanding),
            ),
        )
        self._send(request, replica)
        self._plan_hedge(request)

    def _send(self, request: Request, replica: Replica) -> None:
        replica.put(request)
        self._start_deadline(replica, request, self._config.deadline_s)

    def _plan_hedge(self, request: Request) -> None:
        after_s = self._hedging.after_s(request.teacher)
        if after_s is not None:
            asyncio.get_running_loop().call_later(after_s, self._hedge, request)

    def _hedge(self, request: Request) -> None:
        """Send to a second replica as well, if the first has not answered and another may."""
        if request.answer.done() or len(request.assigned_to) != 1:
            return
        now_s = time.monotonic()
        others = [
            replica
            for replica in self._open(request.teacher)
            if not (
                replica in request.assigned_to
                or replica.stalled
                or replica.avoided_until_s > now_s
                or replica.replica_id in request.failed_at
            )
        ]
        if others and self._hedging.may_hedge(self._counters):
            self._counters.hedges += 1
            self._send(request, min(others, key=lambda r: len(r.outstanding)))

    def _start_deadline(self, replica: Replica, request: Request, after_s: float) -> None:
        request_id = request.message.request_id
        if request_id in replica.deadlines:
            replica.deadlines[request_id].cancel()
        replica.deadlines[request_id] = asyncio.get_running_loop().call_later(
            after_s, self._on_deadline, replica, request
        )

    def _on_deadline(self, replica: Replica, request: Request) -> None:
        """Move the request if its replica stalled; one that is busy with others has not."""
        deadline_s = self._config.deadline_s
        left_s = replica.last_answer_s + deadline_s - time.monotonic()
        if self._config.priority == "low":
            # Silence is what was asked for: others may ask all the time. One that is gone is missed
            # by keepalive, by its lease, or by its own health.
            left_s = deadline_s
        if left_s > 0 and not replica.has_skipped(request.message.request_id):
            self._start_deadline(replica, request, left_s)
            return
        replica.stalled = left_s <= 0
        reason = f"no answer within {deadline_s:g} s"
        self.note_failure(request.teacher, f"{replica.address}: {reason}")
        alone = all(other is replica for other in self._open(request.teacher))
        if alone and not request.answer.done():
            # The same replica would only do the work twice: wait for it, for another one, or for
            # the end of patience.
            self._start_deadline(replica, request, deadline_s)
            return
        self._take_from(replica, request, reason)

    def _take_from(self, replica: Replica, request: Request, reason: str) -> None:
        """Send what a replica does not answer elsewhere; its late answer counts nevertheless."""
        replica.take(request.message.request_id)
        request.assigned_to.discard(replica)
        request.failed_at.add(replica.replica_id)
        self._resend(request, replica, reason)

    def _resend(self, request: Request, replica: Replica, reason: str) -> None:
        # Another replica has it as well (hedged), or it waits for one already.
        if (
            request.answer.done()
            or request.assigned_to
            or request in self._waiting[request.teacher]
        ):
            return
        self._log_leaving(request, replica, reason)
        self._counters.resends += 1
        self._assign(request)

    def _log_leaving(self, request: Request, replica: Replica, reason: str) -> None:
        request_id = request.message.request_id
        logger.warning(
            "%s request %d leaves %s: %s", request.teacher, request_id, replica.address, reason
        )
