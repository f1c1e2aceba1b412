"""Whose turn it is: by hand, and against an ideal server that works on everything at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from fractions import Fraction
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teacher_server.replica import fair_queue
from teacher_server.replica.fair_queue import FairQueue, Verdict

ItemT = TypeVar("ItemT")
Stream = tuple[str, int]


def serve(queue: FairQueue[ItemT], most: int) -> list[ItemT]:
    left = iter(range(most))
    return queue.take(lambda _: Verdict.STOP if next(left, None) is None else Verdict.TAKE)


def push(queue: FairQueue[str], stream: str, number: int, cost: float, run: str = "") -> None:
    for index in range(number):
        queue.push(run or stream, stream, f"{stream}{index}", cost)


def test_fair_queue_serves_a_caller_with_one_item_before_the_backlog_of_another() -> None:
    queue: FairQueue[str] = FairQueue()
    push(queue, "g", 5, 10)
    assert serve(queue, 1) == ["g0"]
    push(queue, "m", 1, 10)
    assert serve(queue, 9) == ["m0", "g1", "g2", "g3", "g4"]


def test_fair_queue_of_unequal_costs_shares_by_cost_and_not_by_number() -> None:
    queue: FairQueue[str] = FairQueue()
    push(queue, "s", 8, 1)
    push(queue, "b", 2, 4)
    assert serve(queue, 10) == ["s0", "b0", "s1", "s2", "s3", "b1", "s4", "s5", "s6", "s7"]


def test_fair_queue_gives_no_claim_to_who_was_idle() -> None:
    queue: FairQueue[str] = FairQueue()
    push(queue, "a", 4, 1)
    assert serve(queue, 3) == ["a0", "a1", "a2"]
    push(queue, "i", 3, 1)
    assert serve(queue, 4) == ["i0", "a3", "i1", "i2"]


def test_fair_queue_gives_a_run_one_share_and_its_streams_a_part_of_it_each() -> None:
    queue: FairQueue[str] = FairQueue()
    push(queue, "a", 2, 1, run="many")
    push(queue, "b", 2, 1, run="many")
    push(queue, "c", 4, 1, run="one")
    assert serve(queue, 8) == ["a0", "c0", "b0", "c1", "a1", "c2", "b1", "c3"]


def test_fair_queue_serves_low_items_only_when_no_other_waits() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("low", 1, "low0", 1, is_low=True)
    push(queue, "a", 2, 1)
    assert serve(queue, 2) == ["a0", "a1"]
    push(queue, "a", 1, 1)
    assert serve(queue, 9) == ["a0", "low0"]


def test_fair_queue_lets_no_low_item_pass_one_that_must_stay() -> None:
    queue: FairQueue[str] = FairQueue()
    push(queue, "a", 1, 1)
    push(queue, "b", 1, 1)
    queue.push("low", 1, "low0", 1, is_low=True)
    verdicts = {"a0": Verdict.SKIP, "b0": Verdict.TAKE}
    assert queue.take(verdicts.__getitem__) == ["b0"]
    assert (sorted(queue), serve(queue, 9)) == (["a0", "low0"], ["a0", "low0"])


def test_fair_queue_leaves_a_run_that_is_skipped_its_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    push(queue, "a", 2, 1)
    push(queue, "b", 3, 1)
    seen: list[str] = []

    def skip_a(item: str) -> Verdict:
        seen.append(item)
        return Verdict.SKIP if item.startswith("a") else Verdict.TAKE

    assert queue.take(skip_a) == ["b0", "b1", "b2"]
    assert seen == ["a0", "b0", "b1", "b2"]
    push(queue, "b", 1, 1)
    # It is owed what the other has got meanwhile.
    assert serve(queue, 3) == ["a0", "a1", "b0"]


def test_fair_queue_drops_what_nobody_wants_at_no_cost() -> None:
    queue: FairQueue[str] = FairQueue()
    push(queue, "a", 3, 5)
    push(queue, "b", 1, 5)
    gone = {"a0", "a1"}
    assert queue.take(lambda it: Verdict.DROP if it in gone else Verdict.TAKE) == ["b0", "a2"]
    assert len(queue) == 0


def test_fair_queue_forgets_who_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "MAX_REMEMBERED", 3)
    queue: FairQueue[str] = FairQueue()
    push(queue, "a", 9, 1)
    for number in range(9):
        push(queue, f"once{number}", 1, 100)
    assert len(serve(queue, 12)) == 12
    remembered = queue._normal._free_at
    assert 0 < len(remembered) <= 5
    serve(queue, 9)
    assert (len(queue), remembered) == (0, {})


def ideal_shares(waiting: Mapping[Stream, int], served: int) -> Counter[str]:
    """What each run got of a server that works on all runs at once, on each run's streams too."""
    left = {stream: Fraction(cost) for stream, cost in waiting.items()}
    got: Counter[str] = Counter()
    todo = Fraction(served)
    while todo and any(left.values()):
        open_streams = [stream for stream, cost in left.items() if cost]
        streams_of = Counter(run for run, _ in open_streams)
        speed = {it: Fraction(1, len(streams_of) * streams_of[it[0]]) for it in open_streams}
        # Until the next stream is through.
        step = min(todo, *(left[it] / speed[it] for it in open_streams))
        for it in open_streams:
            left[it] -= step * speed[it]
            got[it[0]] += step * speed[it]  # type: ignore[assignment]
        todo -= step
    return got


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(1, 9)),
        min_size=1,
        max_size=40,
    )
)
def test_fair_queue_gives_every_run_what_an_ideal_server_would(
    arrivals: list[tuple[str, int, int]],
) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    waiting: Counter[Stream] = Counter()
    for run, stream, cost in arrivals:
        queue.push(run, (run, stream), (run, cost), cost)
        waiting[run, stream] += cost
    most = max(cost for *_, cost in arrivals)
    got: Counter[str] = Counter()
    while len(queue):
        ((run, cost),) = serve(queue, 1)
        got[run] += cost
        ideal = ideal_shares(waiting, got.total())
        assert all(abs(got[it] - ideal[it]) <= 2 * most for it in "abc")
    assert got == ideal_shares(waiting, waiting.total())


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=40))
def test_fair_queue_keeps_every_stream_s_lead_in_its_run_below_two_items(
    arrivals: list[tuple[int, int]],
) -> None:
    queue: FairQueue[tuple[int, int]] = FairQueue()
    for stream, cost in arrivals:
        queue.push("run", stream, (stream, cost), cost)
    queue.push("other", "other", (9, 1), 1)
    left = Counter(stream for stream, _ in arrivals)
    got: Counter[Hashable] = Counter()
    most = max(cost for _, cost in arrivals)
    for stream, cost in without_nine(queue.take(lambda _: Verdict.TAKE)):
        got[stream] += cost
        left[stream] -= 1
        backlogged = [one for one in left if left[one]]
        assert all(got[stream] - got[one] <= 2 * most for one in backlogged)


def without_nine(served: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    return [it for it in served if it[0] != 9]
