"""Joins the requests of all streams into rounds of the device, run in one worker thread.

A round takes the waiting requests, each run in its turn, up to a budget of tokens; those of low
priority in what room the others leave.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from protos.teacher_pb2 import Compression
from teacher_server.replica.device_health import DeviceHealth
from teacher_server.replica.fair_budget import FairBudget, Piece
from teacher_server.replica.fair_queue import FairQueue, Verdict
from teacher_server.replica.load import LoadMeter
from teacher_server.replica.runs import Runs
from teacher_server.replica.worker import Worker
from teacher_server.scoring.counters import ReplicaCounters
from teacher_server.scoring.device_batches import BatchLimits
from teacher_server.scoring.score_work import ScoreWork

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

# A round takes seconds; after this time the device does not come back by itself.
MAX_ROUND_S = 600.0


# Not frozen, as it is made for every request: a frozen one's fields take 1 us to set.
@dataclass(eq=False, slots=True)
class BatchResult(Generic[ResultT]):
    """The rows of one request, and the seconds that it spent in the queue and on the device."""

    rows: ResultT
    queue_s: float
    forward_s: float


RoundFn = Callable[[Sequence[ScoreWork], BatchLimits], list[ResultT]]
"""Runs one round of the device: works of one compression -> one result per work."""


@dataclass(eq=False, slots=True)
class QueuedRequest(Generic[ResultT]):
    """One request before and in its round."""

    work: ScoreWork
    result: asyncio.Future[BatchResult[ResultT]]
    num_tokens: int
    since_s: float
    """When it was queued."""
    caller: Hashable
    """Its stream."""


class Batcher(Generic[ResultT]):
    """The queue before the device and the one thread that runs it."""

    def __init__(
        self,
        score_round: RoundFn[ResultT],
        limits: BatchLimits,
        *,
        counters: ReplicaCounters,
        device: DeviceHealth,
    ) -> None:
        """A batcher that is not started; `counters` gets its rounds, `device` those that failed."""
        self.runs = Runs()
        self._counters = counters
        self._device = device
        self._score_round_of = score_round
        self._limits = limits
        self._queue: FairQueue[QueuedRequest[ResultT]] = FairQueue()
        self._budget = FairBudget(limits.max_queue_bytes)
        self._on_device: list[QueuedRequest[ResultT]] = []
        self._round_since_s = 0.0
        self._load = LoadMeter()
        self._arrived = asyncio.Event()
        self._queued_tokens = 0
        self._full = asyncio.Event()
        self._worker = Worker("teacher-forward")
        self._task: asyncio.Task[None] | None = None
        self._ended_by = ""

    @property
    def limits(self) -> BatchLimits:
        """Limits of a round and of the queue; a change applies from the next round on."""
        return self._limits

    @limits.setter
    def limits(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._budget.limit = limits.max_queue_bytes

    @property
    def problem(self) -> str:
        """Why no rows can be expected; empty if they can."""
        if self._task is None:
            return "rounds are not run yet"
        if self._task.done():
            return f"rounds are no longer run: {self._ended_by or 'closed'}"
        round_s = time.monotonic() - self._round_since_s
        if self._on_device and round_s > MAX_ROUND_S:
            return f"the device has not come back for {round_s:.0f} s"
        return self._device.problem

    @property
    def num_waiting(self) -> int:
        """Requests in the queue whose callers still want an answer."""
        return sum(not queued.result.done() for queued in self._queue)

    @property
    def num_waiting_bytes(self) -> int:
        """Bytes of the requests in the queue."""
        return self._budget.held

    @property
    def queue_delay_s(self) -> float:
        """How long the oldest request in the queue has waited; 0 if there is none."""
        since_s = [queued.since_s for queued in self._waiting()]
        return time.monotonic() - min(since_s) if since_s else 0.0

    def report_load(self) -> dict[str, float]:
        """The load since the last report, as `LoadMeter.report`.

        Requests of low priority keep a replica from being idle, but ask for no other one: they are
        to use what is left, and wait long.
        """
        waiting = self._waiting()
        return self._load.report(_since_s(waiting), is_wanted=bool(waiting))

    def start(self) -> None:
        """Run rounds on the running event loop from now on."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._on_end)

    async def close(self) -> None:
        """Stop running rounds; cancel the requests that still wait."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._abandon()
        self._worker.close()

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a round ended with a bug; no more rounds are run", exc_info=error)
            self._ended_by = f"{type(error).__name__}: {error}"
        self._abandon()

    def _abandon(self) -> None:
        for queued in [*self._on_device, *self._queue]:
            queued.result.cancel()

    def _waiting(self) -> list[QueuedRequest[ResultT]]:
        return [queued for queued in self._queue if not queued.result.done()]

    async def submit(
        self, work: ScoreWork, caller: Hashable = None
    ) -> asyncio.Future[BatchResult[ResultT]]:
        """Queue the work, once there is room for its bytes.

        Args:
            work: what to score.
            caller: identifies the stream. Runs share the device evenly by tokens, and so do the
                streams of a run; one whose work names no run is a run of its own.

        Returns:
            A future; cancelling it takes the work out of the queue. It raises RuntimeError if the
            device failed.

        Raises:
            RuntimeError: if no more rounds are run.
        """
        if self._task is not None and self._task.done():
            raise RuntimeError("rounds must be run for work to be queued, got an ended batcher.")
        room = _room(work, caller)
        if not self._budget.try_take(room):
            await self._budget.take(room)
        result: asyncio.Future[BatchResult[ResultT]] = asyncio.get_running_loop().create_future()
        num_tokens = work.num_tokens
        queued = QueuedRequest(work, result, num_tokens, time.monotonic(), caller)
        self._queue.push(room.run, caller, queued, num_tokens, is_low=work.is_low)
        self._queued_tokens += num_tokens
        self._arrived.set()
        if self._queued_tokens >= self._limits.token_budget:
            self._full.set()
        return result

    async def _run(self) -> None:
        since_s = time.monotonic()
        while True:
            if not len(self._queue):
                self._arrived.clear()
                await self._arrived.wait()
                since_s = time.monotonic()
            # During a long round enough requests arrived. After a quick one waiting pays: the trip
            # to the device and back costs the same for one request as for many.
            await self._wait_until_full(since_s + self.limits.max_delay_s - time.monotonic())
            since_s = time.monotonic()
            joined = self._take_round()
            if joined:
                self._load.round_starts(_since_s(joined))
                self._on_device = joined
                await self._score_round(joined)
                self._on_device = []
                self._load.round_ends()

    async def _wait_until_full(self, longest_s: float) -> None:
        """Let requests arrive until they fill a round, for at most `longest_s`."""
        if longest_s <= 0.0 or self._queued_tokens >= self._limits.token_budget:
            return
        self._full.clear()
        timer = asyncio.get_running_loop().call_later(longest_s, self._full.set)
        await self._full.wait()
        timer.cancel()

    def _take_round(self) -> list[QueuedRequest[ResultT]]:
        """Requests of one compression in the order of their turns, up to the budget."""
        joined = self._queue.take(_Round(self._limits, self._leave).judge)
        for queued in joined:
            self._leave(queued)
        return joined

    def _leave(self, queued: QueuedRequest[ResultT]) -> None:
        """Give back the room of a request that left the queue."""
        self._budget.give(_room(queued.work, queued.caller))
        self._queued_tokens -= queued.num_tokens

    async def _score_round(self, joined: list[QueuedRequest[ResultT]]) -> None:
        works = [queued.work for queued in joined]
        started_s = self._round_since_s = time.monotonic()
        try:
            results = await self._worker.run(
                functools.partial(self._score_round_of, works, self.limits)
            )
        except (RuntimeError, MemoryError, ValueError) as error:
            # What a device raises; anything else is a bug, which ends this task and our health.
            reason = RuntimeError(f"{type(error).__name__}: {error}")
            logger.warning("a round of %d requests failed: %s", len(joined), reason)
        else:
            reason = None
        # Not inside the except: its traceback would keep the round's tensors on the device.
        if reason is not None and len(joined) > 1:
            # One of them may be too much for the device: the others must not fail with it.
            for queued in joined:
                await self._score_round([queued])
            return
        if reason is not None:
            self._device.failed(str(reason))
            if not joined[0].result.done():
                joined[0].result.set_exception(reason)
            return
        forward_s = time.monotonic() - started_s
        self._counters.rounds += 1
        self._counters.forward_s.observe(forward_s)
        self._count_device(joined, forward_s)
        for queued, rows in zip(joined, results, strict=True):
            if not queued.result.done():
                queue_s = started_s - queued.since_s
                self._counters.queue_s.observe(queue_s)
                queued.result.set_result(BatchResult(rows, queue_s, forward_s))

    def _count_device(self, joined: Sequence[QueuedRequest[ResultT]], forward_s: float) -> None:
        """Share the time of a round out among its requests, by tokens."""
        per_token_s = forward_s / sum(queued.num_tokens for queued in joined)
        for queued in joined:
            self.runs.of(queued.work.run_id).device_s += per_token_s * queued.num_tokens


class _Round:
    """What has joined a round so far, and who may still join."""

    def __init__(self, limits: BatchLimits, leave: Callable[[QueuedRequest[Any]], None]) -> None:
        self._limits = limits
        self._leave = leave
        self._tokens = self._entries = 0
        self._compression: Compression | None = None
        """Of all that joined; None: nothing has."""

    def judge(self, queued: QueuedRequest[Any]) -> Verdict:
        """Whether a request joins: those that are cancelled do not, nor others of another cut."""
        if queued.result.done():
            self._leave(queued)
            return Verdict.DROP
        work, wanted = queued.work, self._compression
        tokens, entries = self._tokens + queued.num_tokens, self._entries + work.max_entries
        is_over = tokens > self._limits.token_budget or entries > self._limits.max_round_entries
        # Requests of one run have the same object; to compare its fields takes far longer.
        if wanted is not None and work.compression is not wanted and work.compression != wanted:
            return Verdict.SKIP
        if wanted is not None and is_over:
            return Verdict.STOP
        self._tokens, self._entries, self._compression = tokens, entries, work.compression
        return Verdict.TAKE


def _since_s(waiting: Sequence[QueuedRequest[Any]]) -> list[float]:
    """Since when requests wait, without those that may wait for ever."""
    return [queued.since_s for queued in waiting if not queued.work.is_low]


def _room(work: ScoreWork, caller: Hashable) -> Piece:
    """What a request takes of the queue; one that names no run is of a run of its stream's own."""
    return Piece(work.run_id or caller, caller, work.num_bytes, work.is_low)
