"""Joins the requests of all streams into rounds of device batches, run in one worker thread.

A round is what is waiting, every stream in its turn, up to a budget; inside it the examples of all
requests are sorted by length and cut into device batches, so that little is spent on padding.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from protos.codec import TargetRows, concat_rows
from teacher_server.compress import Cut, take_rows
from teacher_server.counters import ReplicaCounters
from teacher_server.fair_queue import FairQueue, Place
from teacher_server.load import LoadMeter
from teacher_server.worker import Worker
from trainer.byte_budget import ByteBudget
from trainer.data.model_input import ExampleInput

ScoreFn = Callable[[Sequence[ExampleInput], Cut], TargetRows]
logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")
# A device that fails this often in a row (out of memory, a poisoned CUDA context) needs a restart.
MAX_FAILURES = 3


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """What one round and the queue before it may hold."""

    token_budget: int = 4096
    """Examples of a device batch times the ids of its longest; a longer one goes alone. Columns are
    padded each on its own, so a teacher that takes all three may hold three times as many."""
    max_examples: int = 256
    """Examples in one device batch."""
    max_round_entries: int = 1 << 23
    """Row entries that the requests of one round may keep; a larger request goes alone."""
    max_delay_s: float = 0.002
    """How long a round gathers requests unless they fill it: from the start of the round before,
    or, on an idle device, from the first request."""
    max_queue_bytes: int = 32 << 20
    """Request bytes that wait at most; beyond it streams are not read."""


# Not frozen, as it is made for every request: a frozen one's fields take 1 us to set.
@dataclass(eq=False, slots=True)
class Scored(Generic[ResultT]):
    """What a round gave for one request, its rows, and where its time went."""

    rows: ResultT
    queue_s: float
    forward_s: float


@dataclass(eq=False, slots=True)
class Ragged:
    """Ids of examples end to end: int32 [N], and how many are each example's."""

    ids_N: np.ndarray
    lengths_B: list[int]

    def rows(self, num_examples: int) -> list[np.ndarray]:
        """Each example's ids; of a column that is not there, none."""
        if not self.lengths_B:
            return [self.ids_N] * num_examples
        ends = itertools.accumulate(self.lengths_B, initial=0)
        return [self.ids_N[start:end] for start, end in itertools.pairwise(ends)]


@dataclass(eq=False, slots=True)
class Columns:
    """The examples of a request, as they came."""

    targets: list[int]
    tokens: Ragged
    entities: Ragged
    words: Ragged


@dataclass(eq=False)
class ScoreWork:
    """One checked request: what to score, how to cut it, and what it costs."""

    columns: Columns
    cut: Cut
    max_entries: int
    """Row entries of the reply at most, or draws."""
    num_bytes: int
    """Of the request."""
    max_reply_bytes: int
    """Of the reply block before compression, with every row as long as the cut allows."""

    @functools.cached_property
    def inputs(self) -> tuple[ExampleInput, ...]:
        """The examples one by one; for whoever scores them, off the event loop."""
        columns = self.columns
        number = len(columns.targets)
        return tuple(
            ExampleInput(num_targets=n, tokens=said, entities=named, words=heard)
            for n, said, named, heard in zip(
                columns.targets,
                columns.tokens.rows(number),
                columns.entities.rows(number),
                columns.words.rows(number),
                strict=True,
            )
        )

    @property
    def num_tokens(self) -> int:
        """What the request counts against the token budget: ids of all columns."""
        columns = self.columns
        ids = len(columns.tokens.ids_N) + len(columns.entities.ids_N) + len(columns.words.ids_N)
        return max(len(columns.targets), ids)

    @property
    def num_rows(self) -> int:
        """Rows of the reply."""
        return sum(self.columns.targets)


RoundFn = Callable[[Sequence[ScoreWork], BatchLimits], list[ResultT]]
"""Runs one round of the device: works of one cut -> a result each."""


@dataclass(eq=False, slots=True)
class _Waiting(Generic[ResultT]):
    work: ScoreWork
    answer: asyncio.Future[Scored[ResultT]]
    num_tokens: int
    since_s: float


def plan_batches(
    lengths: Sequence[int], *, token_budget: int, max_examples: int
) -> list[list[int]]:
    """Indices of the examples in each device batch: sorted by length, longest first.

    A batch's examples times its longest length stays within token_budget, unless it is one example.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        full = not batches or len(batches[-1]) >= max_examples
        if full or (len(batches[-1]) + 1) * longest > token_budget:
            batches.append([])
            longest = max(1, lengths[index])
        batches[-1].append(index)
    return batches


def score_together(
    score: ScoreFn,
    works: Sequence[ScoreWork],
    limits: BatchLimits,
    *,
    counters: ReplicaCounters | None = None,
) -> list[TargetRows]:
    """The rows of each work, all of one cut, as if each had been scored alone."""
    inputs = [example for work in works for example in work.inputs]
    plan = plan_batches(
        [example.size for example in inputs],
        token_budget=limits.token_budget,
        max_examples=limits.max_examples,
    )
    if counters is not None:
        _count_fill(counters, [[inputs[i].size for i in batch] for batch in plan])
    rows = concat_rows([score([inputs[i] for i in batch], works[0].cut) for batch in plan])
    counts = np.array([example.num_targets for example in inputs])
    in_batch_order = np.concatenate([np.asarray(batch) for batch in plan])
    starts = np.empty(len(inputs), dtype=np.int64)
    starts[in_batch_order] = np.cumsum(counts[in_batch_order]) - counts[in_batch_order]
    results, first = [], 0
    for work in works:
        mine = slice(first, first + len(work.inputs))
        index_R = [
            np.arange(start, start + count)
            for start, count in zip(starts[mine], counts[mine], strict=True)
        ]
        results.append(take_rows(rows, np.concatenate(index_R)))
        first += len(work.inputs)
    return results


def _count_fill(counters: ReplicaCounters, lengths_of_batches: list[list[int]]) -> None:
    for lengths in lengths_of_batches:
        tokens, slots = sum(lengths), len(lengths) * max(1, *lengths)
        counters.batch_tokens += tokens
        counters.batch_slots += slots
        counters.batch_fill.observe(tokens / slots)


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
        self._failures = 0
        self._load = LoadMeter()
        self._arrived = asyncio.Event()
        self._waiting_tokens = 0
        self._full = asyncio.Event()
        self._worker = Worker("teacher-forward")
        self._task: asyncio.Task[None] | None = None

    @property
    def limits(self) -> BatchLimits:
        """What a round and the queue may hold; a change counts from the next round on."""
        return self._limits

    @limits.setter
    def limits(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._budget.limit = limits.max_queue_bytes

    @property
    def healthy(self) -> bool:
        """Whether rounds run, and the last ones did not all fail."""
        running = self._task is not None and not self._task.done()
        return running and self._failures < MAX_FAILURES

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
            if joined and work.cut != joined[0].work.cut:
                tokens, entries = tokens - waiting.num_tokens, entries - work.max_entries
                kept.append(place)
                continue
            self._waiting.served(place)
            self._leave(waiting)
            joined.append(waiting)
        for place in kept:
            self._waiting.put_back(place)
        return joined

    def _leave(self, waiting: _Waiting[ResultT]) -> None:
        """It is no longer in the queue."""
        self._budget.give(waiting.work.num_bytes)
        self._waiting_tokens -= waiting.num_tokens

    async def _score_round(self, joined: list[_Waiting[ResultT]]) -> None:
        works = [waiting.work for waiting in joined]
        started_s = time.monotonic()
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
            self._failures += 1
            if not joined[0].answer.done():
                joined[0].answer.set_exception(reason)
            return
        self._failures = 0
        forward_s = time.monotonic() - started_s
        self.counters.rounds += 1
        self.counters.forward_s.observe(forward_s)
        for waiting, rows in zip(joined, results, strict=True):
            if not waiting.answer.done():
                queue_s = started_s - waiting.since_s
                self.counters.queue_s.observe(queue_s)
                waiting.answer.set_result(Scored(rows, queue_s, forward_s))
