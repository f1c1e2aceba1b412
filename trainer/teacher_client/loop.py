"""An event loop in a thread of its own, for callers that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

# One that ignores being cancelled must not hold up the end of a run.
END_S = 5.0

ResultT = TypeVar("ResultT")


class Loop:
    """Runs coroutines for threads that wait for them, or do not."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """False once it was closed."""
        return self._thread.is_alive()

    def start(self, coroutine: Coroutine[Any, Any, ResultT]) -> Future[ResultT]:
        """Run a coroutine beside the caller; its result, or its error, as a future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine and wait for it."""
        return self.start(coroutine).result()

    def close(self) -> None:
        """End what still runs, then the thread."""
        self.run(_end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end_all() -> None:
    """Cancel all tasks but this one and wait for them, then close asynchronous generators.

    A task that is pending when its loop goes is reported as destroyed, long after. gRPC has tasks
    of its own on the loop, which end some turns after the calls that they belong to.
    """
    loop = asyncio.get_running_loop()
    left = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=END_S)
    await loop.shutdown_asyncgens()
