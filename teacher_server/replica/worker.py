"""Threads for work that is too long for the event loop: single calls, or all waiting items at once.

An executor does the same through a second future, which costs a busy replica one or two percent of
its throughput (docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, eq=False)
class _Call:
    function: Callable[[], Any]
    result: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Worker:
    """One thread that runs calls one after another; started with the first call."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._is_started = self._is_closed = False

    def run(self, function: Callable[[], ResultT]) -> asyncio.Future[ResultT]:
        """Run the function in the thread; the future gets what it returns or raises.

        Raises:
            RuntimeError: if the worker is closed.
        """
        if self._is_closed:
            raise RuntimeError("a worker must be open to be called, got a closed one.")
        if not self._is_started:
            self._is_started = True
            self._thread.start()
        loop = asyncio.get_running_loop()
        result: asyncio.Future[ResultT] = loop.create_future()
        self._calls.put(_Call(function, result, loop))
        return result

    def close(self) -> None:
        """End the thread after the calls that were made."""
        self._is_closed = True
        self._calls.put(None)

    def _serve(self) -> None:
        while self._serve_next():
            pass

    def _serve_next(self) -> bool:
        # A function of its own: while the thread waits it must hold no call and no outcome, which
        # may be tensors on a device. The traceback of an error holds this frame, too.
        call = self._calls.get()
        if call is None:
            return False
        try:
            outcome = call.function()
        except BaseException as error:
            # Not swallowed: it is raised where the result is awaited.
            outcome = error
        # The loop may have ended meanwhile; then nothing waits for the result.
        with contextlib.suppress(RuntimeError):
            call.loop.call_soon_threadsafe(_settle, call.result, outcome)
        del call, outcome
        return True


class Stage(Generic[ItemT, ResultT]):
    """Applies a function to items: short ones on the event loop, long ones in a thread.

    A trip to a thread and back takes two switches and some 100 us. Short items take less, and under
    load all waiting items share a trip.
    """

    def __init__(
        self, function: Callable[[ItemT], ResultT], name: str, *, is_short: Callable[[ItemT], bool]
    ) -> None:
        self._function = function
        self._is_short = is_short
        self._worker = Worker(name)
        self._waiting: list[tuple[ItemT, asyncio.Future[ResultT]]] = []
        self._is_away = False

    async def run(self, item: ItemT) -> ResultT:
        """What the function returns, or raises, for the item."""
        if not self._waiting and self._is_short(item):
            return self._function(item)
        result: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        if not self._is_away:
            self._send()
        return await result

    def close(self) -> None:
        """End the thread after the items that it has."""
        self._worker.close()

    def _send(self) -> None:
        batch, self._waiting = self._waiting, []
        results = [result for _, result in batch]
        try:
            trip = self._worker.run(lambda: [self._outcome(item) for item, _ in batch])
        except RuntimeError as error:
            # Closed meanwhile: no caller may wait for ever.
            _settle_all(results, [error] * len(results))
            return
        self._is_away = True
        trip.add_done_callback(lambda done: self._come_back(results, done.result()))

    def _outcome(self, item: ItemT) -> ResultT | Exception:
        try:
            return self._function(item)
        except Exception as error:
            # Not swallowed: it is raised where the item's result is awaited.
            return error

    def _come_back(
        self, results: list[asyncio.Future[ResultT]], outcomes: list[ResultT | Exception]
    ) -> None:
        self._is_away = False
        _settle_all(results, outcomes)
        if self._waiting:
            self._send()


def _settle_all(results: Sequence[asyncio.Future[Any]], outcomes: Sequence[Any]) -> None:
    for result, outcome in zip(results, outcomes, strict=True):
        _settle(result, outcome)


def _settle(result: asyncio.Future[Any], outcome: Any) -> None:
    # Its caller may have cancelled it.
    if result.done():
        return
    if isinstance(outcome, BaseException):
        result.set_exception(outcome)
    else:
        result.set_result(outcome)
