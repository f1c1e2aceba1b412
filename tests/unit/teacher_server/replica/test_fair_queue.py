from __future__ import annotations

import asyncio
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from teacher_server.replica.fair_queue import FairQueue
from trainer.common.byte_budget import ByteBudget


def serve(queue: FairQueue[str], most: int) -> list[str]:
    served = []
    for place in itertools.islice(queue.drain(), most):
        queue.served(place)
        served.append(place[-1])
    return served


def test_fair_queue_serves_a_caller_with_one_item_before_the_backlog_of_another() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(5):
        queue.push("greedy", f"g{number}", 10)
    assert serve(queue, 1) == ["g0"]
    queue.push("modest", "m0", 10)
    assert serve(queue, 9) == ["m0", "g1", "g2", "g3", "g4"]


def test_fair_queue_of_unequal_costs_shares_by_cost_and_not_by_number() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(8):
        queue.push("small", f"s{number}", 1)
    for number in range(2):
        queue.push("big", f"b{number}", 4)
    assert serve(queue, 10) == ["s0", "b0", "s1", "s2", "s3", "s4", "b1", "s5", "s6", "s7"]


def test_fair_queue_gives_no_claim_to_who_was_idle() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.push("a", f"a{number}", 1)
    assert serve(queue, 3) == ["a0", "a1", "a2"]
    for number in range(3):
        queue.push("idle", f"i{number}", 1)
    assert serve(queue, 4) == ["i0", "a3", "i1", "i2"]


def test_fair_queue_puts_an_item_back_where_it_was() -> None:
    queue: FairQueue[str] = FairQueue()
    for name in ("first", "second"):
        queue.push(name, name, 1)
    place = next(queue.drain())
    assert place[-1] == "first"
    queue.put_back(place)
    assert (len(queue), serve(queue, 2)) == (2, ["first", "second"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=40))
def test_fair_queue_keeps_every_caller_s_lead_below_two_items(
    arrivals: list[tuple[int, int]],
) -> None:
    queue: FairQueue[tuple[int, int]] = FairQueue()
    for caller, cost in arrivals:
        queue.push(caller, (caller, cost), cost)
    left = {caller: sum(1 for one, _ in arrivals if one == caller) for caller, _ in arrivals}
    got = dict.fromkeys(left, 0)
    most = max(cost for _, cost in arrivals)
    for place in queue.drain():
        queue.served(place)
        caller, cost = place[-1]
        got[caller] += cost
        left[caller] -= 1
        backlogged = [one for one in left if left[one]]
        assert all(got[caller] - got[one] <= 2 * most for one in backlogged)


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
