"""The actor that keeps a run of students going: on which nodes, again after a loss, until its end.

It sits on a student node, so that the head may be away; Ray starts it anew elsewhere if that node
is lost, and it goes on by what its predecessor has written into the run's folder. To it all nodes
are equal, its own one included.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import ray

from cluster.students.attempt import Outcome, run_attempt
from cluster.students.journal import Journal
from cluster.students.lease import END_S, LEASE_S
from cluster.students.node_link import NodeLink, monotonic
from cluster.students.node_set import Group, release_all
from cluster.students.order import RunOrder
from cluster.students.roster import Roster
from cluster.students.run_files import RunState, read_state
from trainer.common.errors import MachineError, MissingError, UserError

NAMESPACE = "conkd"
PREFIX = "students:"
SUPERVISOR = "supervisor"
SHARE = 0.01
EXIT_STOPPED = 143
LOOK_S = 0.25
# In a row, without a checkpoint between them.
MAX_LOSSES = 10


class Supervisor:
    """One run. Its work is a thread, so that the actor answers meanwhile."""

    def __init__(self, order: RunOrder) -> None:
        self._order = order
        self._name = f"{PREFIX}{order.name}"
        folder = Path(order.folder)
        self._stop = threading.Event()
        before = state_before(folder)
        is_same = before is not None and before.id == order.id
        self._is_over = is_same and before is not None and before.is_over
        self._is_successor = is_same and not self._is_over
        self._state = first_state(order, before)
        # The ranks of a supervisor before have no lease any more by then.
        self._free_s = monotonic() + (0.0 if before is None or before.is_over else LEASE_S + END_S)
        self._journal = Journal(folder, self._state)
        threading.Thread(target=self._run, name="supervise", daemon=True).start()

    def status(self) -> RunState:
        """The run now, without what the shared folder says."""
        return self._state

    def stop(self) -> None:
        """End the ranks, and the run."""
        self._stop.set()

    def _run(self) -> None:
        if not self._is_over:
            self._journal.start()
            try:
                self._supervise()
            except UserError as error:
                self._end("failed", f"error: {error}", exit_status=2)
            except Exception as error:  # of ours: the run must not seem to go on
                self._journal.lines(traceback.format_exc().splitlines())
                self._end("failed", f"error: a mistake of ours: {error!r}", exit_status=1)
            self._journal.close()
        if self._journal.seen.is_replaced:
            # Ray gave the actor's id to the successor, which must not be killed by it.
            os._exit(0)
        # Not restarted after that.
        ray.kill(ray.get_actor(self._name, namespace=NAMESPACE))

    def _supervise(self) -> None:
        if self._is_successor:
            self._say("the supervisor's node was lost, and another one has it now", "waiting")
        release_all(self._name)
        roster = Roster(self._order, self._order.run_config(), name=self._name)
        losses = 0
        while True:
            checkpoint = self._journal.seen.checkpoint
            outcome = self._attempt(roster)
            if outcome.ending in ("done", "failed", "stopped"):
                text = f"{outcome.ending}: {outcome.text or 'all ranks have ended as they should'}"
                self._end(outcome.ending, text, exit_status=outcome.exit_status)
                return
            if outcome.ending == "replaced":
                return
            seen = self._journal.seen.checkpoint
            self._say(f"{outcome.text}; going on from step {seen}", "waiting")
            losses = 0 if seen > checkpoint else losses + 1
            if losses >= MAX_LOSSES:
                raise MachineError(
                    f"student nodes must live from one checkpoint to the next, got {losses} losses "
                    f"in a row ({outcome.text}). Look at these nodes, then run it again."
                )

    def _attempt(self, roster: Roster) -> Outcome:
        group = roster.gather(
            is_first=self._state.attempt == 0,
            is_over=lambda: self._told_to_end() is not None,
            on_wait=lambda text: self._say(text, "waiting"),
        )
        if group is None:
            return self._told_to_end() or Outcome(ending="replaced")
        try:
            while monotonic() < self._free_s and not self._stop.is_set():
                time.sleep(LOOK_S)
            outcome = self._run_ranks(group, roster)
        finally:
            group.release()
        self._free_s = max(self._free_s, outcome.free_s)
        roster.lose(outcome.silent_nodes)
        return outcome

    def _run_ranks(self, group: Group, roster: Roster) -> Outcome:
        slots, fit = roster.sizes(group)
        places = group.places[:fit]
        goes_on = self._journal.seen.has_begun
        self._state = dataclasses.replace(
            self._state,
            attempt=self._state.attempt + 1,
            nodes=tuple(place.address for place in places),
            ranks=fit * slots,
        )
        hosts = ", ".join(place.host for place in places)
        text = f"attempt {self._state.attempt}: {fit * slots} ranks on {fit} nodes ({hosts})"
        self._say(text, "running")
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(roster, group, ended), daemon=True).start()
        try:
            return run_attempt(
                [NodeLink(*each, monotonic) for each in zip(group.actors, places, strict=False)],
                slots=slots,
                argv=self._order.argv(goes_on=goes_on),
                on_lines=self._on_lines,
                interrupt=lambda: self._interrupt(roster),
            )
        finally:
            ended.set()

    def _watch(self, roster: Roster, group: Group, ended: threading.Event) -> None:
        roster.watch(group, ended=ended, checkpoint=lambda: self._journal.seen.checkpoint)

    def _interrupt(self, roster: Roster) -> Outcome | None:
        if roster.can_grow(self._journal.seen.checkpoint):
            return Outcome(ending="grow", text="more student nodes are free")
        return self._told_to_end()

    def _told_to_end(self) -> Outcome | None:
        if self._stop.is_set():
            return Outcome(ending="stopped", text="as asked", exit_status=EXIT_STOPPED)
        return Outcome(ending="replaced") if self._journal.seen.is_replaced else None

    def _on_lines(self, rank: int, lines: Sequence[str]) -> None:
        prefix = f"[{self._state.nodes[rank]}] " if rank else ""
        self._journal.lines([f"{prefix}{line}" for line in lines])

    def _say(self, text: str, state: str) -> None:
        self._state = dataclasses.replace(self._state, state=state, message=text)
        self._journal.event(text, self._state)

    def _end(self, state: str, text: str, *, exit_status: int) -> None:
        self._state = dataclasses.replace(self._state, exit_status=exit_status, nodes=(), ranks=0)
        self._say(text, state)


def state_before(folder: Path) -> RunState | None:
    """What an earlier supervisor has left there; None: there was none."""
    try:
        return read_state(folder)
    except MissingError:
        return None


def first_state(order: RunOrder, before: RunState | None) -> RunState:
    """The state of a new supervisor: that of its predecessor of the same run, or a new one."""
    epoch = 1 if before is None else before.epoch + 1
    if before is not None and before.id == order.id:
        return dataclasses.replace(before, epoch=epoch, nodes=(), ranks=0)
    return RunState(
        run=order.name, id=order.id, epoch=epoch, state="waiting", wanted_nodes=order.nodes
    )
