from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest

from teacher_server.replica.worker import Stage, Worker


class Large:
    """Stands for a tensor on a device."""


def test_worker_runs_calls_in_order_in_one_thread() -> None:
    async def scenario() -> list[tuple[int, str]]:
        worker = Worker("w")
        answers = [
            worker.run(lambda number=number: (number, threading.current_thread().name))
            for number in range(5)
        ]
        try:
            return await asyncio.gather(*answers)
        finally:
            worker.close()

    assert asyncio.run(scenario()) == [(number, "w") for number in range(5)]


def test_worker_raises_where_the_outcome_is_awaited_and_lives_on() -> None:
    async def scenario() -> None:
        worker = Worker("w")
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 // 0)
        assert await worker.run(lambda: 7) == 7
        worker.close()
        with pytest.raises(RuntimeError, match="must be open to be called"):
            worker.run(lambda: 7)

    asyncio.run(scenario())


@pytest.mark.parametrize("fails", [False, True])
def test_worker_that_waits_holds_nothing_of_the_call_before(fails: bool) -> None:
    async def scenario() -> None:
        worker = Worker("w")
        held: list[weakref.ref[Large]] = []

        def make() -> Large:
            large = Large()
            held.append(weakref.ref(large))
            if fails:
                raise ValueError("after it was made")
            return large

        with contextlib.suppress(ValueError):
            await worker.run(make)
        # It has taken the next call and waits again.
        await worker.run(lambda: None)
        assert held[0]() is None
        worker.close()

    # What only the collector of cycles would free may fill a device until it comes.
    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()


def test_worker_outcome_that_nobody_waits_for_is_dropped() -> None:
    async def scenario() -> None:
        worker = Worker("w")
        release = threading.Event()
        gone = worker.run(lambda: release.wait(10))
        gone.cancel()
        release.set()
        assert await worker.run(lambda: 7) == 7
        worker.close()

    asyncio.run(scenario())


def test_stage_does_short_work_at_once_and_all_that_waits_on_one_trip() -> None:
    async def scenario() -> None:
        threads: list[str] = []
        release = threading.Event()

        def work(item: int) -> int:
            threads.append(threading.current_thread().name)
            assert item == 0 or release.wait(10)
            if item == 3:
                raise ValueError("three")
            return 2 * item

        stage = Stage(work, "s", is_short=lambda item: item == 0)
        assert await stage.run(0) == 0
        assert threads == [threading.main_thread().name]
        answers = [asyncio.create_task(stage.run(item)) for item in (1, 2, 3, 0)]
        await asyncio.sleep(0.01)
        release.set()
        done = await asyncio.gather(*answers, return_exceptions=True)
        # The short one did not overtake those that waited.
        assert (done[:2], done[3]) == ([2, 4], 0)
        assert isinstance(done[2], ValueError)
        assert threads[1:] == ["s"] * 4
        assert await stage.run(0) == 0
        stage.close()
        with pytest.raises(RuntimeError, match="must be open"):
            await stage.run(1)

    asyncio.run(scenario())
