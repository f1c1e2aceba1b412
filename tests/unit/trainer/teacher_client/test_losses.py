"""Flaps and deaths of the replicas that had one request."""

from __future__ import annotations

from trainer.teacher_client.losses import DEATHS_APART_S, MAX_DEATHS, Losses


def lost(losses: Losses, number: int) -> list[str]:
    """So many streams that ended, far enough apart."""
    names = [f"replica-{index}" for index in range(number)]
    for index, name in enumerate(names):
        losses.on_end(name, index * (DEATHS_APART_S + 1.0))
    return names


def test_streams_that_ended_are_no_deaths() -> None:
    losses = Losses()
    lost(losses, 10 * MAX_DEATHS)
    assert not losses.is_deadly


def test_one_connection_may_flap_for_ever() -> None:
    losses = Losses()
    for flap in range(100):
        losses.on_end("a", 10.0 * flap)
        losses.on_alive("a")
        losses.on_gone("b")
    assert (losses.missed, losses.dead) == (set(), set())


def test_deaths_of_different_processes_make_a_request_deadly() -> None:
    losses = Losses()
    for number, name in enumerate(lost(losses, MAX_DEATHS), 1):
        losses.on_gone(name)
        assert losses.is_deadly == (number == MAX_DEATHS)


def test_the_same_process_counts_once_and_not_if_it_is_met_again() -> None:
    losses = Losses()
    names = lost(losses, MAX_DEATHS)
    for name in names[:-1] * 3:
        losses.on_gone(name)
    assert not losses.is_deadly
    losses.on_gone(names[-1])
    losses.on_alive(names[0])
    assert not losses.is_deadly


def test_streams_that_end_together_are_one_death() -> None:
    losses = Losses()
    for index in range(MAX_DEATHS):
        losses.on_end(str(index), 100.0 + index * DEATHS_APART_S / MAX_DEATHS)
        losses.on_gone(str(index))
    assert losses.dead == {"0"}
