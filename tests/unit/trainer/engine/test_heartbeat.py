"""Ranks that beat, ranks that are gone, and ranks that have left."""

from __future__ import annotations

from tests.support.memory_store import MemoryStore
from trainer.engine import heartbeat
from trainer.engine.heartbeat import LEFT, LOST_S, PAUSE_S, Heart, Pulses


def looked_until(pulses: Pulses, end_s: float, start_s: float = 0.0) -> list[int]:
    """What is lost at the end of looks that are as far apart as in a run."""
    now_s, lost = start_s, pulses.lost(start_s)
    while now_s < end_s and not lost:
        now_s = min(end_s, now_s + 1.0)
        lost = pulses.lost(now_s)
    return lost


def test_rank_whose_counter_stands_still_is_lost_after_the_time() -> None:
    pulses = Pulses()
    pulses.note(1, 5, 0.0)
    pulses.note(1, 5, 20.0)
    assert looked_until(pulses, LOST_S) == []
    assert looked_until(pulses, LOST_S + 1, LOST_S) == [1]


def test_rank_that_beats_is_not_lost_whatever_it_waits_for() -> None:
    pulses = Pulses()
    for second in range(600):
        pulses.note(1, second + 1, float(second))
        assert pulses.lost(float(second)) == []


def test_rank_that_has_not_begun_to_beat_is_not_missed() -> None:
    pulses = Pulses()
    pulses.note(1, 0, 0.0)
    assert looked_until(pulses, 10 * LOST_S) == []


def test_rank_that_has_left_is_not_missed() -> None:
    pulses = Pulses()
    pulses.note(1, LEFT + 7, 0.0)
    assert looked_until(pulses, 10 * LOST_S) == []


def test_process_that_was_stopped_itself_misses_nobody_at_once() -> None:
    pulses = Pulses()
    pulses.note(1, 5, 0.0)
    assert pulses.lost(1.0) == []
    after_s = 1.0 + 100 * PAUSE_S
    assert pulses.lost(after_s) == []
    assert looked_until(pulses, after_s + LOST_S + 1, after_s) == [1]


def hearts(store: MemoryStore, ranks: int) -> tuple[list[Heart], list[list[str]]]:
    said: list[list[str]] = [[] for _ in range(ranks)]
    made = [
        Heart(rank, ranks, connect=lambda: store, leave=said[rank].append) for rank in range(ranks)
    ]
    for rank in range(ranks):
        store.set(f"conkd/host/{rank}", f"machine{rank}")
    return made, said


def test_first_rank_names_the_lost_one_and_the_others_end_without_a_word(monkeypatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: float(next(clock)))
    (first, second, third), said = hearts(MemoryStore(), 3)
    # Three beats of all: those of rank 0 are heard of by others at the next exchange.
    for _ in range(3):
        for heart in (first, second, third):
            heart.exchange(heart._connect())
    while not said[0]:
        first.exchange(first._connect())
        second.exchange(second._connect())
        first.look(heartbeat.time.monotonic())
        assert not said[1]
    assert said[0][0].startswith(
        "all ranks must take part, got no sign of life of rank 2 (machine2) for 25 s."
    )
    first.exchange(first._connect())
    second.exchange(second._connect())
    assert said[1] == [""]


def test_others_name_the_first_rank_when_its_store_does_not_answer(monkeypatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now_s)
    (_, second), said = hearts(MemoryStore(), 2)
    second.exchange(second._connect())
    while now_s < LOST_S:
        second.look(now_s)
        now_s += 1.0
    assert said[1] == []
    second.look(now_s + 1)
    assert "rank 0 (machine0)" in said[1][0]
