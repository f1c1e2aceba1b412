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
from collections.abc import Sequence
from pathlib import Path

import ray
from ray.exceptions import RayError

from cluster.students.attempt import Outcome, run_attempt
from cluster.students.journal import Journal
from cluster.students.lease import LEASE_S
from cluster.students.node_link import NodeLink, monotonic
from cluster.students.node_set import Group, free_nodes, gather, release_all
from cluster.students.order import RunOrder, largest_fit
from cluster.students.run_files import RunState, read_state
from trainer.common.errors import InputError, MachineError, MissingError, UserError
from trainer.config.run import RunConfig

NAMESPACE = "conkd"
PREFIX = "students:"
SUPERVISOR = "supervisor"
SHARE = 0.01
EXIT_STOPPED = 143
LOOK_S = 1.0
GROW_LOOK_S = 5.0
# For the nodes of the attempt before to be given back.
SETTLE_S = 5.0
# By then Ray knows, too, that a node is lost; one that came back is another node to it.
FORGET_S = 90.0
MAX_LOSSES_WITHOUT_A_STEP = 10


class Supervisor:
    """One run. Its work is a thread, so that the actor answers meanwhile."""

    def __init__(self, order: RunOrder) -> None:
        self._order = order
        self._name = f"{PREFIX}{order.name}"
        self._folder = Path(order.folder)
        self._stop = threading.Event()
        self._can_grow = False
        self._grow_from = 0
        self._lost_at: dict[str, float] = {}
        before = _state_before(self._folder)
        self._state = _first_state(order, before)
        # What ran under the supervisor before has ended by then.
        self._free_s = monotonic() + (0.0 if before is None or before.is_over else LEASE_S)
        self._journal = Journal(self._folder, self._state)
        self._is_over = before is not None and before.id == order.id and before.is_over
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
                self._end("failed", f"error: a mistake of ours: {error!r}", exit_status=1)
            self._journal.close()
        if self._journal.seen.is_replaced:
            # Ray gave the actor's id to the successor, which must not be killed by it.
            os._exit(0)
        # Not restarted after that.
        ray.kill(ray.get_actor(self._name, namespace=NAMESPACE))

    def _supervise(self) -> None:
        config = self._order.run_config()
        release_all(self._name)
        losses = 0
        while True:
            step = self._journal.seen.step
            group = self._gather(config)
            if group is None:
                return
            outcome = self._attempt(group, config)
            if outcome.ending in ("done", "failed", "stopped"):
                state = outcome.ending
                text = outcome.text or "all ranks have ended as they should"
                self._end(state, f"{state}: {text}", exit_status=outcome.exit_status)
                return
            if outcome.ending == "replaced":
                return
            losses = 0 if outcome.ending == "grow" or self._journal.seen.step > step else losses + 1
            if losses >= MAX_LOSSES_WITHOUT_A_STEP:
                raise MachineError(
                    f"student nodes must live for a step, got {losses} losses in a row without one "
                    f"({outcome.text}). Look at these nodes, then start the run again."
                )

    def _gather(self, config: RunConfig) -> Group | None:
        """Actors on the nodes of the next attempt; None: the run was stopped."""
        order, began_s, said = self._order, monotonic(), -1
        slots = order.slots or 1  # until a node was asked for its GPUs
        most = max(order.min_nodes, largest_fit(config, slots=slots, nodes=order.nodes))
        while not self._stop.is_set():
            if self._journal.seen.is_replaced:
                return None
            nodes = self._free_nodes()[: order.nodes]
            waited_s = monotonic() - began_s
            fit = largest_fit(config, slots=slots, nodes=len(nodes))
            patient = waited_s < (SETTLE_S if self._state.attempt else order.wait_s)
            enough = most if patient else order.min_nodes
            if fit >= enough and monotonic() >= self._free_s:
                group = gather(nodes, self._name)
                if group is not None:
                    return group
            if waited_s > order.wait_s and fit < order.min_nodes:
                raise MachineError(
                    f"a run must have {order.min_nodes} student nodes, got {len(nodes)} free ones "
                    f"for {order.wait_s:.0f} s. Look at ray status, or lower --min-nodes."
                )
            if said != len(nodes) and waited_s > SETTLE_S:
                said = len(nodes)
                self._say(f"waiting for student nodes: {said} of {order.nodes} are free", "waiting")
            time.sleep(LOOK_S)
        self._end("stopped", "stopped", exit_status=EXIT_STOPPED)
        return None

    def _attempt(self, group: Group, config: RunConfig) -> Outcome:
        slots = self._order.slots or _slots_of(group)
        fit = largest_fit(config, slots=slots, nodes=len(group.places))
        try:
            if not fit:
                raise InputError(
                    f"train.batch_size must be divisible by the ranks of a node, got "
                    f"{config.train.batch_size} and {slots}. Change it, or --slots."
                )
            return self._run_ranks(group, config, slots=slots, fit=fit)
        finally:
            group.release()

    def _run_ranks(self, group: Group, config: RunConfig, *, slots: int, fit: int) -> Outcome:
        pairs = list(zip(group.actors, group.places, strict=True))[:fit]
        links = [NodeLink(actor, place, monotonic) for actor, place in pairs]
        goes_on = self._journal.seen.has_begun
        attempt = self._state.attempt + 1
        self._state = dataclasses.replace(
            self._state,
            attempt=attempt,
            nodes=tuple(place.address for _, place in pairs),
            ranks=fit * slots,
        )
        hosts = ", ".join(place.host for _, place in pairs)
        self._say(f"attempt {attempt}: {fit * slots} ranks on {fit} nodes ({hosts})", "running")
        self._can_grow = False
        watcher = threading.Event()
        threading.Thread(
            target=self._watch_nodes,
            args=(config, slots, fit, len(group.places), watcher),
            daemon=True,
        ).start()
        try:
            outcome = run_attempt(
                links,
                slots=slots,
                argv=self._order.argv(goes_on=goes_on),
                on_lines=self._on_lines,
                interrupt=self._interrupt,
            )
        finally:
            watcher.set()
        self._free_s = max(self._free_s, outcome.free_s)
        self._lost_at |= dict.fromkeys(outcome.lost_nodes, monotonic())
        if outcome.ending in ("lost", "grow"):
            self._say(
                f"{outcome.text}; going on from step {self._journal.seen.checkpoint}", "waiting"
            )
        return outcome

    def _interrupt(self) -> Outcome | None:
        if self._stop.is_set():
            return Outcome(ending="stopped", text="as asked", exit_status=EXIT_STOPPED)
        seen = self._journal.seen
        if seen.is_replaced:
            return Outcome(ending="replaced")
        if self._can_grow and seen.checkpoint > self._grow_from:
            return Outcome(ending="grow", text="more student nodes are free")
        return None

    def _watch_nodes(
        self, config: RunConfig, slots: int, fit: int, held: int, ended: threading.Event
    ) -> None:
        """Look for nodes to grow by. A thread of its own: Ray's answers wait for the head."""
        while fit < self._order.nodes and not ended.wait(GROW_LOOK_S):
            nodes = min(self._order.nodes, held + len(self._free_nodes()))
            can_grow = largest_fit(config, slots=slots, nodes=nodes) > fit
            if can_grow and not self._can_grow:
                self._grow_from = self._journal.seen.checkpoint
            self._can_grow = can_grow and not ended.is_set()

    def _free_nodes(self) -> list[str]:
        """Nodes that may be had; none while Ray does not answer."""
        after_s = monotonic() - FORGET_S
        lost = {node_id for node_id, at_s in self._lost_at.items() if at_s > after_s}
        try:
            return free_nodes(lost)
        except RayError:
            return []

    def _on_lines(self, rank: int, lines: Sequence[str]) -> None:
        prefix = f"[{self._state.nodes[rank]}] " if rank else ""
        self._journal.lines([f"{prefix}{line}" for line in lines])

    def _say(self, text: str, state: str) -> None:
        self._state = dataclasses.replace(self._state, state=state, message=text)
        self._journal.event(text, self._state)

    def _end(self, state: str, text: str, *, exit_status: int) -> None:
        self._state = dataclasses.replace(self._state, exit_status=exit_status, nodes=(), ranks=0)
        self._say(text, state)


def _state_before(folder: Path) -> RunState | None:
    try:
        return read_state(folder)
    except MissingError:
        return None


def _first_state(order: RunOrder, before: RunState | None) -> RunState:
    """The state of a new supervisor: that of its predecessor of the same run, or a new one."""
    epoch = 1 if before is None else before.epoch + 1
    if before is not None and before.id == order.id:
        return dataclasses.replace(before, epoch=epoch, nodes=(), ranks=0)
    return RunState(
        run=order.name, id=order.id, epoch=epoch, state="waiting", wanted_nodes=order.nodes
    )


def _slots_of(group: Group) -> int:
    """Ranks of a node: one for each of its GPUs, or one."""
    counts = {place.host: max(1, place.devices) for place in group.places}
    if len(set(counts.values())) > 1:
        raise InputError(
            f"student nodes must have as many GPUs each, got {counts}. Give --slots, or make them "
            "alike."
        )
    return next(iter(counts.values()))
