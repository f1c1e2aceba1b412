"""Who gets room first, and what is left for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from teacher_server.replica.fair_budget import FairBudget, Piece, Urgency


class Takers:
    """Streams that take from one budget, and the order in which they were let in."""

    def __init__(self, limit: int) -> None:
        self.budget = FairBudget(limit)
        self.let_in: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def take(self, stream: str, num_bytes: int, *, run: str = "", low: bool = False) -> None:
        """Start to take, and go on when it has it or waits."""

        async def taken() -> None:
            await self.budget.take(Piece(run or stream, stream, num_bytes, low))
            self.let_in.append(stream)

        self.tasks[stream] = asyncio.create_task(taken())
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def give(self, stream: str, num_bytes: int, *, run: str = "", low: bool = False) -> None:
        self.budget.give(Piece(run or stream, stream, num_bytes, low))
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def with_limit(limit: int, story: Callable[[Takers], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(story(Takers(limit)), 20)

    asyncio.run(bounded())


def test_fair_budget_lets_one_of_each_run_in_and_then_the_next() -> None:
    async def story(takers: Takers) -> None:
        await takers.take("full", 100)
        for stream in ("a1", "a2", "a3"):
            await takers.take(stream, 35, run="a")
        await takers.take("b1", 50, run="b")
        assert takers.let_in == ["full"]
        await takers.give("full", 100)
        assert takers.let_in == ["full", "a1", "b1"]
        await takers.give("b1", 50, run="b")
        assert takers.let_in == ["full", "a1", "b1", "a2"]

    with_limit(100, story)


def test_fair_budget_keeps_a_quarter_for_streams_that_hold_nothing() -> None:
    async def story(takers: Takers) -> None:
        await takers.take("low", 25, low=True)
        await takers.take("greedy", 30)
        await takers.take("greedy", 20)
        await takers.take("greedy", 1)
        assert (takers.let_in, takers.budget.held) == (["low", "greedy", "greedy"], 75)
        await takers.take("modest", 20)
        assert takers.let_in[-1] == "modest"
        assert not takers.budget.try_take(Piece("modest", "modest", 1))

    with_limit(100, story)


def test_fair_budget_leaves_a_quarter_to_others_than_one_run_and_passes_that_run_over() -> None:
    async def story(takers: Takers) -> None:
        for stream in ("a1", "a2", "a3", "a4"):
            await takers.take(stream, 25, run="a")
        assert takers.let_in == ["a1", "a2", "a3"]
        await takers.take("b", 25)
        assert takers.let_in[-1] == "b"
        await takers.give("a2", 25, run="a")
        assert takers.let_in[-1] == "a4"

    with_limit(100, story)


def test_fair_budget_forgets_takers_that_leave_while_others_wait() -> None:
    async def story(takers: Takers) -> None:
        budget = takers.budget
        await takers.take("full", 100)
        await takers.take("waits", 10, low=True)
        assert not budget.others_wait("waits")
        for number in range(20):
            await takers.take(f"{number}", 10, low=True)
            assert budget.others_wait("waits")
        for number in range(20):
            takers.tasks[f"{number}"].cancel()
        await asyncio.sleep(0)
        queue = budget._queues[Urgency.LOW]
        assert [taker.piece.stream for taker in queue.heads()] == ["waits"]
        assert not budget.others_wait("waits")

    with_limit(100, story)


def test_fair_budget_of_a_stream_that_has_given_all_back_does_not_wait_for_others() -> None:
    async def story(takers: Takers) -> None:
        await takers.take("idle", 70)
        await takers.take("busy", 10)
        # Beyond a half with what it holds; then it holds nothing.
        await takers.take("busy", 12)
        assert takers.let_in == ["idle", "busy"]
        await takers.give("busy", 10)
        assert takers.let_in == ["idle", "busy", "busy"]
        assert takers.budget.held == 82

    with_limit(100, story)


def test_fair_budget_counts_low_streams_apart_and_lets_normal_ones_pass() -> None:
    async def story(takers: Takers) -> None:
        await takers.take("low", 25, low=True)
        await takers.take("low2", 1, low=True)
        await takers.take("normal", 25)
        await takers.take("normal", 25)
        await takers.take("normal2", 25)
        await takers.take("normal3", 10)
        assert takers.let_in == ["low", "normal", "normal", "normal2"]
        await takers.give("low", 25, low=True)
        assert takers.let_in[4:] == ["normal3", "low2"]
        await takers.give("normal2", 25)
        await takers.take("low3", 25, low=True)
        assert takers.let_in[6:] == []

    with_limit(100, story)


def test_fair_budget_lets_a_giant_in_when_nothing_else_is_held() -> None:
    async def story(takers: Takers) -> None:
        await takers.take("first", 60)
        await takers.take("giant", 500)
        await takers.take("small", 10)
        assert takers.let_in == ["first"]
        await takers.give("first", 60)
        assert (takers.let_in, takers.budget.held) == (["first", "giant"], 500)
        await takers.give("giant", 500)
        assert (takers.let_in[-1], takers.budget.held) == ("small", 10)

    with_limit(100, story)


@pytest.mark.parametrize("low", [False, True])
def test_fair_budget_passes_over_who_left_while_waiting(low: bool) -> None:
    async def story(takers: Takers) -> None:
        await takers.take("first", 100)
        await takers.take("leaver", 60, low=low)
        await takers.take("next", 10, low=low)
        takers.tasks["leaver"].cancel()
        await takers.give("first", 100)
        assert (takers.let_in, takers.budget.held) == (["first", "next"], 10)

    with_limit(100, story)


def test_fair_budget_takes_back_what_it_gave_to_who_leaves_in_that_moment() -> None:
    async def story(takers: Takers) -> None:
        await takers.take("first", 100)
        await takers.take("leaver", 60)
        takers.budget.give(Piece("first", "first", 100))
        assert takers.budget.held == 60
        takers.tasks["leaver"].cancel()
        await asyncio.wait([takers.tasks["leaver"]])
        assert (takers.let_in, takers.budget.held) == (["first"], 0)
        assert takers.budget.try_take(Piece("next", "next", 100))

    with_limit(100, story)
