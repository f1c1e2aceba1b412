"""How an attempt ends, with nodes that are objects of this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cluster.students.attempt import Outcome, run_attempt
from cluster.students.node import Place
from trainer.common.errors import MachineError

SILENT = "no answer for 20 s"


class FakeLink:
    """A node whose answers are a list: lines and exit status of each beat, or why it is lost."""

    def __init__(self, number: int, *answers: tuple[str, int | None] | str) -> None:
        self.place = Place(
            node_id=f"id{number}",
            host=f"student{number}",
            address=f"10.0.0.{number}",
            port=9,
            devices=0,
        )
        self.exit_status: int | None = None
        self.lease_is_over = False
        self.lost = ""
        self.is_silent = False
        self.sent = self.answered = 0
        self.free_s = 1000.0 + number
        self.started_with: Any = None
        self.is_stopped = False
        self._answers = list(answers)

    def greet(self) -> int:
        return 1

    def start(self, start: Any, pending: int) -> int:
        self.started_with = start
        return pending

    def started(self, pending: int) -> None:
        assert pending == 1

    def poll(self) -> tuple[str, ...]:
        self.sent += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, str):
            self.lost = answer
            self.is_silent = answer == SILENT
            return ()
        self.answered = self.sent
        line, self.exit_status = answer
        return (line,) if line else ()

    def stop(self) -> int:
        self.is_stopped = True
        return 1

    def stopped(self, pending: int) -> tuple[str, ...]:
        return ("last words",)


def attempt(
    *links: FakeLink, interrupts: Sequence[Outcome | None] = ()
) -> tuple[Outcome, list[tuple[int, str]]]:
    said: list[tuple[int, str]] = []
    left = [*interrupts]
    outcome = run_attempt(
        links,  # type: ignore[arg-type]
        slots=2,
        argv=("--config", "a.yaml"),
        on_lines=lambda rank, lines: said.extend((rank, line) for line in lines),
        interrupt=lambda: left.pop(0) if left else None,
        clock=lambda: 10.0,
        wait=lambda _: None,
    )
    return outcome, said


def test_attempt_is_done_when_all_launchers_ended_with_0() -> None:
    outcome, said = attempt(FakeLink(1, ("a", None), ("", 0)), FakeLink(2, ("", 0)))
    assert (outcome.ending, outcome.exit_status, outcome.free_s) == ("done", 0, 10.0)
    assert said == [(0, "a"), (0, "last words"), (1, "last words")]


def test_all_nodes_start_with_the_address_of_the_first() -> None:
    links = [FakeLink(number, ("", 0)) for number in (1, 2, 3)]
    attempt(*links)
    starts = [link.started_with for link in links]
    assert [it.node_rank for it in starts] == [0, 1, 2]
    assert {it.master_address for it in starts} == {"10.0.0.1"}
    assert {(it.nodes, it.slots, it.argv) for it in starts} == {(3, 2, ("--config", "a.yaml"))}


def test_lost_node_ends_the_others_and_its_own_ranks_run_no_longer_than_its_lease() -> None:
    links = [FakeLink(1, ("", None)), FakeLink(2, ("", None), SILENT)]
    outcome, _ = attempt(*links)
    assert outcome.ending == "lost"
    assert outcome.text == "student node lost: student2 (10.0.0.2): no answer for 20 s"
    assert outcome.silent_nodes == ("id2",)
    assert (links[0].is_stopped, links[1].is_stopped) == (True, False)
    assert outcome.free_s == links[1].free_s


def test_node_that_ended_its_ranks_for_want_of_beats_is_no_failure_of_the_run() -> None:
    link = FakeLink(1, ("", 75))
    link.lease_is_over = True
    outcome, _ = attempt(link)
    assert (outcome.ending, outcome.silent_nodes) == ("lost", ())


def test_node_of_which_the_actor_alone_is_gone_may_be_taken_again_at_once() -> None:
    outcome, _ = attempt(FakeLink(1, "Ray has lost it, or the actor there"))
    assert (outcome.ending, outcome.silent_nodes) == ("lost", ())


def test_rank_that_fails_while_all_nodes_live_ends_the_run_with_its_status() -> None:
    outcome, _ = attempt(FakeLink(1, ("", None)), FakeLink(2, ("error: no", 2)))
    assert (outcome.ending, outcome.exit_status) == ("failed", 2)
    assert outcome.text == "ranks on student2 (10.0.0.2) ended with status 2"


def test_rank_that_fails_because_another_node_is_gone_is_no_failure_of_the_run() -> None:
    silent = FakeLink(1, ("", None))
    silent.poll = lambda: _silent(silent)  # type: ignore[method-assign]
    outcome, _ = attempt(silent, FakeLink(2, ("error: all ranks must take part", 2)))
    assert outcome.ending == "lost"


def _silent(link: FakeLink) -> tuple[str, ...]:
    """Sends, and has no answer; after ten beats it counts as lost."""
    link.sent += 1
    link.lost = "no answer for 20 s" if link.sent > 10 else ""
    return ()


@pytest.mark.parametrize(("status", "expected"), [(-9, 137), (1, 1), (130, 130)])
def test_status_of_a_signal_is_that_of_a_shell(status: int, expected: int) -> None:
    assert attempt(FakeLink(1, ("", status)))[0].exit_status == expected


def test_of_several_statuses_that_of_an_error_with_a_line_counts() -> None:
    outcome, _ = attempt(FakeLink(1, ("", 1)), FakeLink(2, ("", 2)))
    assert outcome.exit_status == 2


def test_interrupt_ends_all_ranks() -> None:
    links = [FakeLink(1, ("", None)), FakeLink(2, ("", None))]
    stop = Outcome(ending="stopped", exit_status=143)
    outcome, _ = attempt(*links, interrupts=[None, None, stop])
    assert (outcome.ending, outcome.exit_status) == ("stopped", 143)
    assert all(link.is_stopped for link in links)


def test_node_that_cannot_start_ends_the_others() -> None:
    links = [FakeLink(1, ("", None)), FakeLink(2, ("", None))]

    def fail(pending: int) -> None:
        raise MachineError("no interface")

    links[1].started = fail  # type: ignore[method-assign]
    with pytest.raises(MachineError, match="no interface"):
        attempt(*links)
    assert links[0].is_stopped
