"""Joins the requests of all streams into rounds of device batches, run in one worker thread.

A round is what is waiting, in order of arrival, up to a budget; inside it the examples of all
requests are sorted by length and cut into device batches, so that little is spent on padding.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from protos.codec import TargetRows, concat_rows
from teacher_server.compress import Cut, take_rows
from trainer.data.model_input import ExampleInput

ScoreFn = Callable[[Sequence[ExampleInput], Cut], TargetRows]
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
    """How long a round that is not full waits for more requests."""
    max_queue_bytes: int = 32 << 20
    """Request bytes that wait at most; beyond it streams are not read."""


@dataclass(frozen=True, eq=False)
class Scored:
    """The rows of one request and where its time went."""

    rows: TargetRows
    queue_s: float
    forward_s: float


@dataclass(frozen=True, eq=False)
class ScoreWork:
    """One checked request: what to score, how to cut it, and what it costs."""

    inputs: tuple[ExampleInput, ...]
    cut: Cut
    max_entries: int
    """Row entries of the reply at most."""
    num_bytes: int

    @property
    def num_tokens(self) -> int:
        """What the request counts against the token budget."""
        return sum(example.size for example in self.inputs)


@dataclass(frozen=True, eq=False)
class _Waiting:
    work: ScoreWork
    answer: asyncio.Future[Scored]
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
    score: ScoreFn, works: Sequence[ScoreWork], limits: BatchLimits
) -> list[TargetRows]:
    """The rows of each work, all of one cut, as if each had been scored alone."""
    inputs = [example for work in works for example in work.inputs]
    plan = plan_batches(
        [example.size for example in inputs],
        token_budget=limits.token_budget,
        max_examples=limits.max_examples,
    )
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


class Batcher:
    """The queue before the device and the one thread that runs it."""

    def __init__(self, score: ScoreFn, limits: BatchLimits) -> None:
        self.limits = limits
        self._score = score
        self._waiting: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._failures = 0
        self._arrived = asyncio.Event()
        self._door = asyncio.Lock()
        self._left = asyncio.Condition()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="teacher-forward")
        self._task: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether rounds run, and the last ones did not all fail."""
        running = self._task is not None and not self._task.done()
        return running and self._failures < MAX_FAILURES

    def start(self) -> None:
        """Begin to run rounds on the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop running rounds; whoever still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        while self._waiting:
            self._waiting.popleft().answer.cancel()
        self._worker.shutdown(wait=False)

    async def submit(self, work: ScoreWork) -> asyncio.Future[Scored]:
        """Queue the work, once there is room for its bytes.

        Returns:
            The answer to come; cancel it to take the work out of the queue. It raises
            RuntimeError if the device failed.
        """
        # One at a time waits for room, in order of arrival: small requests cannot starve a big one.
        async with self._door, self._left:
            await self._left.wait_for(lambda: self._has_room(work.num_bytes))
            self._queued_bytes += work.num_bytes
        answer: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(work, answer, time.monotonic()))
        self._arrived.set()
        return answer

    def _has_room(self, num_bytes: int) -> bool:
        return (
            not self._queued_bytes or self._queued_bytes + num_bytes <= self.limits.max_queue_bytes
        )

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._is_full():
                await asyncio.sleep(self.limits.max_delay_s)
            joined = await self._take_round()
            if joined:
                await self._score_round(joined)

    def _is_full(self) -> bool:
        tokens = sum(waiting.work.num_tokens for waiting in self._waiting)
        return tokens >= self.limits.token_budget

    async def _take_round(self) -> list[_Waiting]:
        """The oldest requests of one cut, up to the budget; cancelled ones are dropped."""
        joined: list[_Waiting] = []
        kept: deque[_Waiting] = deque()
        tokens, entries, freed = 0, 0, 0
        while self._waiting:
            waiting = self._waiting.popleft()
            work = waiting.work
            if waiting.answer.done():
                freed += work.num_bytes
                continue
            fits = (
                tokens + work.num_tokens <= self.limits.token_budget
                and entries + work.max_entries <= self.limits.max_round_entries
            )
            if joined and (work.cut != joined[0].work.cut or not fits):
                kept.append(waiting)
                continue
            joined.append(waiting)
            tokens, entries = tokens + work.num_tokens, entries + work.max_entries
            freed += work.num_bytes
        self._waiting = kept
        if not kept:
            self._arrived.clear()
        async with self._left:
            self._queued_bytes -= freed
            self._left.notify_all()
        return joined

    async def _score_round(self, joined: list[_Waiting]) -> None:
        works = [waiting.work for waiting in joined]
        started_s = time.monotonic()
        try:
            results = await asyncio.get_running_loop().run_in_executor(
                self._worker, score_together, self._score, works, self.limits
            )
        except (RuntimeError, MemoryError, ValueError) as error:
            # What a device raises; anything else is our bug: it ends this task and so our health.
            reason = RuntimeError(f"{type(error).__name__}: {error}")
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
        for waiting, rows in zip(joined, results, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(Scored(rows, started_s - waiting.since_s, forward_s))
