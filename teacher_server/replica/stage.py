"""A step of the pipeline that keeps the event loop free: long work goes to a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from teacher_server.replica.worker import Worker

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Stage(Generic[ItemT, ResultT]):
    """Applies a function to items in one thread, to all that wait at a time.

    A trip to a thread and back takes two switches and some 100 us: items that take less are done at
    once, and under load the others share a trip.
    """

    def __init__(
        self,
        function: Callable[[ItemT], ResultT],
        name: str,
        *,
        is_short: Callable[[ItemT], bool],
    ) -> None:
        self._function = function
        self._is_short = is_short
        self._worker = Worker(name)
        self._waiting: list[tuple[ItemT, asyncio.Future[ResultT]]] = []
        self._is_away = False

    async def run(self, item: ItemT) -> ResultT:
        """What the function gives, or raises, for the item."""
        if not self._waiting and self._is_short(item):
            return self._function(item)
        answer: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if not self._is_away:
            self._send()
        return await answer

    def close(self) -> None:
        """End the thread once it is idle."""
        self._worker.close()

    def _send(self) -> None:
        batch, self._waiting = self._waiting, []
        answers = [answer for _, answer in batch]
        try:
            outcomes = self._worker.run(lambda: [self._outcome(item) for item, _ in batch])
        except RuntimeError as error:
            # Closed meanwhile: whoever waits must not wait for ever.
            _settle(answers, [error] * len(answers))
            return
        self._is_away = True
        outcomes.add_done_callback(lambda done: self._deliver(answers, done.result()))

    def _outcome(self, item: ItemT) -> ResultT | Exception:
        try:
            return self._function(item)
        except Exception as error:
            # Not swallowed: it is raised where the item's result is awaited.
            return error

    def _deliver(
        self, answers: list[asyncio.Future[ResultT]], outcomes: list[ResultT | Exception]
    ) -> None:
        self._is_away = False
        _settle(answers, outcomes)
        if self._waiting:
            self._send()


def _settle(
    answers: Sequence[asyncio.Future[ResultT]], outcomes: Sequence[ResultT | Exception]
) -> None:
    for answer, outcome in zip(answers, outcomes, strict=True):
        if answer.done():
            continue
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)
