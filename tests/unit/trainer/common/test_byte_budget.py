from __future__ import annotations

import asyncio

from trainer.common.byte_budget import ByteBudget


def test_byte_budget_lets_them_in_by_arrival_and_a_giant_when_it_is_empty() -> None:
    async def scenario() -> list[str]:
        budget = ByteBudget(100)
        order: list[str] = []

        async def take(name: str, num_bytes: int) -> None:
            await budget.take(num_bytes)
            order.append(name)

        await take("first", 60)
        waiting = [asyncio.create_task(take("giant", 500)), asyncio.create_task(take("small", 10))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == ["first"]
        budget.give(60)
        await waiting[0]
        assert budget.held == 500
        budget.give(500)
        await waiting[1]
        assert budget.held == 10
        return order

    assert asyncio.run(scenario()) == ["first", "giant", "small"]


def test_byte_budget_is_not_taken_between_one_who_waited_and_the_next() -> None:
    async def scenario() -> list[str]:
        budget = ByteBudget(100)
        order: list[str] = []

        async def take(name: str, num_bytes: int) -> None:
            await budget.take(num_bytes)
            order.append(name)

        await take("first", 60)
        waiting = [asyncio.create_task(take(name, 45)) for name in ("second", "third")]
        await asyncio.sleep(0)
        budget.give(60)
        for turn in range(8):
            waiting.append(asyncio.create_task(take(f"late {turn}", 1)))
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        return order

    order = asyncio.run(scenario())
    assert order[:3] == ["first", "second", "third"]
    assert order[3:] == [f"late {turn}" for turn in range(8)]
