"""An event loop in a thread, and its end."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError

import pytest

from trainer.teacher_client.loop import Loop


def test_loop_ends_its_tasks_and_generators_before_it_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            # As gRPC's own tasks do: some turns more after a cancel.
            await asyncio.sleep(0)
            ended.append("task")

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ended.append("generator")

    async def first() -> AsyncIterator[int]:
        stream = numbers()
        await anext(stream)
        return stream

    loop = Loop("test")
    waiting = loop.start(forever())
    unfinished = loop.run(first())
    with caplog.at_level(logging.ERROR, logger="asyncio"):
        loop.close()
        del unfinished
        gc.collect()
    assert sorted(ended) == ["generator", "task"]
    assert not loop.is_running
    with pytest.raises(CancelledError):
        waiting.result(timeout=1)
    # "Task was destroyed but it is pending!"
    assert caplog.records == []


def test_loop_gives_results_and_errors() -> None:
    async def answer(value: int) -> int:
        if value < 0:
            raise ValueError("below 0")
        return value

    loop = Loop("test")
    assert loop.run(answer(3)) == 3
    with pytest.raises(ValueError, match="below 0"):
        loop.run(answer(-1))
    loop.close()
