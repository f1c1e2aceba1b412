"""A thread that works for an event loop: calls in, outcomes out, one after another.

An executor does the same by way of a second future, which costs a busy replica one or two percent
of its throughput (docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, eq=False)
class _Call:
    function: Callable[[], Any]
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Worker:
    """One thread, started with the first call."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._is_started = self._is_closed = False

    def run(self, function: Callable[[], ResultT]) -> asyncio.Future[ResultT]:
        """What the function gives, or raises, in the thread.

        Raises:
            RuntimeError: if the worker is closed.
        """
        if self._is_closed:
            raise RuntimeError("a worker must be open to be called, got a closed one.")
        if not self._is_started:
            self._is_started = True
            self._thread.start()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[ResultT] = loop.create_future()
        self._calls.put(_Call(function, answer, loop))
        return answer

    def close(self) -> None:
        """End the thread once it has done what it was given."""
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
            outcome, is_good = call.function(), True
        except BaseException as error:
            # Not swallowed: it is raised where the outcome is awaited.
            outcome, is_good = error, False
        # The loop may have ended meanwhile; then nobody waits.
        with contextlib.suppress(RuntimeError):
            call.loop.call_soon_threadsafe(_settle, call.answer, outcome, is_good)
        del call, outcome
        return True


def _settle(answer: asyncio.Future[Any], outcome: Any, is_good: bool) -> None:
    # The caller may have gone.
    if answer.done():
        return
    if is_good:
        answer.set_result(outcome)
    else:
        answer.set_exception(outcome)
