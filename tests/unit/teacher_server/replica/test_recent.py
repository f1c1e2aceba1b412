"""The counters of the last minute, on a clock that the test moves."""

from __future__ import annotations

from teacher_server.replica.recent import EVERY_S, OVER_S, Recent


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_growth_is_since_the_start_and_then_over_a_minute() -> None:
    clock, counters = Clock(), {"blocks": 3.0}
    recent = Recent(lambda: dict(counters), clock)
    clock.now_s += 2
    counters["blocks"] = 7.0
    assert recent.grown() == (2.0, {"blocks": 4.0})
    # One a second for two minutes.
    for _ in range(24):
        recent.look()
        clock.now_s += EVERY_S
        counters["blocks"] += EVERY_S
    seconds, grown = recent.grown()
    assert OVER_S <= seconds <= OVER_S + EVERY_S
    assert grown == {"blocks": seconds}


def test_counter_that_came_meanwhile_grew_from_nothing() -> None:
    counters: dict[str, float] = {}
    recent = Recent(lambda: dict(counters), Clock())
    counters["late"] = 2.0
    assert recent.grown()[1] == {"late": 2.0}
