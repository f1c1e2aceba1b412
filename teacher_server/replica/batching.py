"""Joins the requests of all streams into rounds, run in one worker thread.

A round is what is waiting, every stream in its turn, up to a budget.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from teacher_server.replica.device_health import DeviceHealth
from teacher_server.replica.fair_queue import FairQueue, Place
from teacher_server.replica.load import LoadMeter
from teacher_server.replica.worker import Worker
from teacher_server.scoring.compress import Cut
from teacher_server.scoring.counters import ReplicaCounters
from teacher_server.scoring.device_batches import BatchLimits
from teacher_server.scoring.score_work import ScoreWork
from trainer.common.byte_budget import ByteBudget

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

# A round takes seconds; a device that is away for so long does not come back by itself.
MAX_ROUND_S = 600.0


# Not frozen, as it is made for every request: a frozen one's fields take 1 us to set.
@dataclass(eq=False, slots=True)
class Scored(Generic[ResultT]):
    """What a round gave for one request, its rows, and where its time went."""

    rows: ResultT
    queue_s: float
    forward_s: float


RoundFn = Callable[[Sequence[ScoreWork], BatchLimits], list[ResultT]]
"""Runs one round of the device: works of one cut -> a result each."""


@dataclass(eq=False, slots=True)
class _Waiting(Generic[ResultT]):
    work: ScoreWork
    answer: asyncio.Future[Scored[ResultT]]
    num_tokens: int
    since_s: float


class Batcher(Generic[ResultT]):
    """The queue before the device and the one thread that runs it."""

    def __init__(
        self,
        score_round: RoundFn[ResultT],
        limits: BatchLimits,
        *,
        counters: ReplicaCounters | None = None,
    ) -> None:
        self.counters = ReplicaCounters() if counters is None else counters
        self._score_round_of = score_round
        self._limits = limits
        self._waiting: FairQueue[_Waiting[ResultT]] = FairQueue()
        self._budget = ByteBudget(limits.max_queue_bytes)
        self._joined: list[_Waiting[ResultT]] = []
        """On the device."""
        self._round_since_s = 0.0
        self.device = DeviceHealth()
        """Told here of rounds that fail, and by whoever encodes the rows whether they are good."""
        self._load = LoadMeter()
        self._arrived = asyncio.Event()
        self._waiting_tokens = 0
        self._full = asyncio.Event()
        self._worker = Worker("teacher-forward")
        self._task: asyncio.Task[None] | None = None
        self._ended_by = ""

    @property
    def limits(self) -> BatchLimits:
        """What a round and the queue may hold; a change counts from the next round on."""
        return self._limits

    @limits.setter
    def limits(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._budget.limit = limits.max_queue_bytes

    @property
    def problem(self) -> str:
        """Why no good rows are to be expected; empty if they are."""
        if self._task is None:
            return "rounds are not run yet"
        if self._task.done():
            return f"rounds are no longer run: {self._ended_by or 'closed'}"
        round_s = time.monotonic() - self._round_since_s
        if self._joined and round_s > MAX_ROUND_S:
            return f"the device has not come back for {round_s:.0f} s"
        return self.device.problem

    @property
    def num_waiting(self) -> int:
        """Requests in the queue whose callers still want an answer."""
        return sum(not waiting.answer.done() for waiting in self._waiting)

    @property
    def num_waiting_bytes(self) -> int:
        """Bytes of the requests in the queue."""
        return self._budget.held

    @property
    def queue_delay_s(self) -> float:
        """How long the oldest request in the queue has waited; 0 if there is none."""
        since_s = [each.since_s for each in self._waiting if not each.answer.done()]
        return time.monotonic() - min(since_s) if since_s else 0.0

    def report_load(self) -> dict[str, float]:
        """The load since the last report, as `LoadMeter.report`."""
        return self._load.report(it.since_s for it in self._waiting if not it.answer.done())

    def start(self) -> None:
        """Begin to run rounds on the running event loop."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._on_end)

    async def close(self) -> None:
        """Stop running rounds; whoever still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._abandon()
        self._worker.close()

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("no more rounds are run, for one ended with a bug", exc_info=error)
            self._ended_by = f"{type(error).__name__}: {error}"
        self._abandon()

    def _abandon(self) -> None:
        for waiting in [*self._joined, *self._waiting]:
            waiting.answer.cancel()

    async def submit(
        self, work: ScoreWork, caller: Hashable = None
    ) -> asyncio.Future[Scored[ResultT]]:
        """Queue the work, once there is room for its bytes.

        Args:
            work: what to score.
            caller: who asks; callers share the device evenly by tokens.

        Returns:
            The answer to come; cancel it to take the work out of the queue. It raises
            RuntimeError if the device failed.

        Raises:
            RuntimeError: if no more rounds are run.
        """
        if self._task is not None and self._task.done():
            raise RuntimeError("rounds must be run for work to be queued, got an ended batcher.")
        if not self._budget.try_take(work.num_bytes):
            await self._budget.take(work.num_bytes)
        answer: asyncio.Future[Scored[ResultT]] = asyncio.get_running_loop().create_future()
        num_tokens = work.num_tokens
        waiting = _Waiting(work, answer, num_tokens, time.monotonic())
        self._waiting.push(caller, waiting, num_tokens)
        self._waiting_tokens += num_tokens
        self._arrived.set()
        if self._waiting_tokens >= self._limits.token_budget:
            self._full.set()
        return answer

    def forget(self, caller: Hashable) -> None:
        """The caller will not submit again."""
        self._waiting.forget(caller)

    async def _run(self) -> None:
        since_s = time.monotonic()
        while True:
            if not len(self._waiting):
                self._arrived.clear()
                await self._arrived.wait()
                since_s = time.monotonic()
            # A round that took long gave all the time to arrive. After a quick one it is worth to
            # wait: the way to the device and back costs as much for one request as for many.
            await self._wait_until_full(since_s + self.limits.max_delay_s - time.monotonic())
            since_s = time.monotonic()
            joined = self._take_round()
            if joined:
                self._load.round_starts(waiting.since_s for waiting in joined)
                self._joined = joined
                await self._score_round(joined)
                self._joined = []
                self._load.round_ends()

    async def _wait_until_full(self, longest_s: float) -> None:
        """Let requests arrive until they fill a round, at most so long."""
        if longest_s <= 0.0 or self._waiting_tokens >= self._limits.token_budget:
            return
        self._full.clear()
        timer = asyncio.get_running_loop().call_later(longest_s, self._full.set)
        await self._full.wait()
        timer.cancel()

    def _take_round(self) -> list[_Waiting[ResultT]]:
        """Requests of one cut in the order of their turns, up to the budget, without cancelled."""
        joined: list[_Waiting[ResultT]] = []
        kept: list[Place[_Waiting[ResultT]]] = []
        tokens, entries = 0, 0
        cut: Cut | None = None
        for place in self._waiting.drain():
            waiting = place[-1]
            work = waiting.work
            if waiting.answer.done():
                self._leave(waiting)
                continue
            tokens, entries = tokens + waiting.num_tokens, entries + work.max_entries
            is_over = tokens > self._limits.token_budget or entries > self._limits.max_round_entries
            if joined and is_over:
                kept.append(place)
                break
            # Requests of one run have the same object; to compare its fields takes far longer.
            if joined and work.cut is not cut and work.cut != cut:
                tokens, entries = tokens - waiting.num_tokens, entries - work.max_entries
                kept.append(place)
                continue
            self._waiting.served(place)
            self._leave(waiting)
            joined.append(waiting)
            cut = work.cut
        for place in kept:
            self._waiting.put_back(place)
        return joined

    def _leave(self, waiting: _Waiting[ResultT]) -> None:
        """It is no longer in the queue."""
        self._budget.give(waiting.work.num_bytes)
        self._waiting_tokens -= waiting.num_tokens

    async def _score_round(self, joined: list[_Waiting[ResultT]]) -> None:
        works = [waiting.work for waiting in joined]
        started_s = self._round_since_s = time.monotonic()
        try:
            results = await self._worker.run(
                functools.partial(self._score_round_of, works, self.limits)
            )
        except (RuntimeError, MemoryError, ValueError) as error:
            # What a device raises; anything else is our bug: it ends this task and so our health.
            reason = RuntimeError(f"{type(error).__name__}: {error}")
            logger.warning("a round of %d requests failed: %s", len(joined), reason)
        else:
            reason = None
        # Not inside the except: its traceback would keep the round's tensors on the device.
        if reason is not None and len(joined) > 1:
            # One of them may be too much for the device: the others must not fail with it.
            for waiting in joined:
                await self._score_round([waiting])
            return
        if reason is not None:
            self.device.failed(str(reason))
            if not joined[0].answer.done():
                joined[0].answer.set_exception(reason)
            return
        forward_s = time.monotonic() - started_s
        self.counters.rounds += 1
        self.counters.forward_s.observe(forward_s)
        for waiting, rows in zip(joined, results, strict=True):
            if not waiting.answer.done():
                queue_s = started_s - waiting.since_s
                self.counters.queue_s.observe(queue_s)
                waiting.answer.set_result(Scored(rows, queue_s, forward_s))
