"""Which student nodes a run takes: those of its next attempt, and those that it could grow by."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

from ray.exceptions import RayError

from cluster.students.node_link import monotonic
from cluster.students.node_set import Group, free_nodes, gather
from cluster.students.order import RunOrder, largest_fit
from trainer.common.errors import InputError, MachineError
from trainer.config.run import RunConfig

LOOK_S = 1.0
GROW_LOOK_S = 5.0
# For the nodes of the attempt before to be given back.
SETTLE_S = 5.0
# By then Ray knows, too, that a node is lost; one that came back is another node to it.
FORGET_S = 90.0


class Roster:
    """The nodes of one run."""

    def __init__(self, order: RunOrder, config: RunConfig, *, name: str) -> None:
        self._order = order
        self._config = config
        self._name = name
        self._lost_at: dict[str, float] = {}
        self._grow_from: int | None = None

    def lose(self, node_ids: Collection[str]) -> None:
        """These nodes are lost, whatever Ray says."""
        self._lost_at |= dict.fromkeys(node_ids, monotonic())

    def gather(
        self, *, is_first: bool, is_over: Callable[[], bool], on_wait: Callable[[str], None]
    ) -> Group | None:
        """Actors on free nodes: all that are wanted, if they come in time, else as many as do.

        Args:
            is_first: no attempt was before: nodes may still be on their way to the cluster.
            is_over: whether the run ends meanwhile; the result is None then.
            on_wait: takes a line about what is waited for.

        Raises:
            MachineError: if there are too few for as long as the run may wait.
        """
        self._grow_from = None
        order, began_s, said = self._order, monotonic(), -1
        patience_s = order.wait_s if is_first else SETTLE_S
        while not is_over():
            nodes = self._free_nodes()[: order.nodes]
            waited_s = monotonic() - began_s
            fit = self._fit(len(nodes))
            if fit >= max(order.min_nodes, self._fit(order.nodes) if waited_s < patience_s else 1):
                group = gather(nodes, self._name)
                if group is not None:
                    return group
            elif waited_s > order.wait_s:
                raise MachineError(
                    f"a run must have {order.min_nodes} student nodes, got {len(nodes)} free ones "
                    f"for {order.wait_s:.0f} s. Look at ray status, or lower --min-nodes."
                )
            if said != len(nodes) and waited_s > SETTLE_S:
                said = len(nodes)
                on_wait(f"waiting for student nodes: {said} of {order.nodes} are free")
            time.sleep(LOOK_S)
        return None

    def sizes(self, group: Group) -> tuple[int, int]:
        """Ranks of a node, and nodes that train; the others of the group are in reserve.

        Raises:
            InputError: if ranks of so many nodes can never share the batch.
        """
        slots = self._order.slots or _gpus(group) or 1
        fit = largest_fit(self._config, slots=slots, nodes=len(group.places))
        if not fit:
            raise InputError(
                "train.batch_size must be divisible by the ranks of a node, got "
                f"{self._config.train.batch_size} and {slots}. Change it, or --slots."
            )
        return slots, fit

    def watch(self, group: Group, *, ended: threading.Event, checkpoint: Callable[[], int]) -> None:
        """Look for nodes to grow by, until the attempt has ended.

        In a thread of its own: while the head is away, Ray's answers wait for it.
        """
        slots, fit = self.sizes(group)
        while fit < self._order.nodes and not ended.wait(GROW_LOOK_S):
            nodes = min(self._order.nodes, len(group.places) + len(self._free_nodes()))
            if ended.is_set():
                return
            if largest_fit(self._config, slots=slots, nodes=nodes) <= fit:
                self._grow_from = None
            elif self._grow_from is None:
                self._grow_from = checkpoint()

    def can_grow(self, checkpoint: int) -> bool:
        """Whether there are nodes to grow by, and a checkpoint was made since they are there."""
        grow_from = self._grow_from
        return grow_from is not None and checkpoint > grow_from

    def _fit(self, nodes: int) -> int:
        # Without --slots, ranks of a node are known once an actor is there.
        return largest_fit(self._config, slots=self._order.slots or 1, nodes=nodes)

    def _free_nodes(self) -> list[str]:
        """Nodes that may be had; none while Ray does not answer."""
        after_s = monotonic() - FORGET_S
        lost = {node_id for node_id, at_s in self._lost_at.items() if at_s > after_s}
        try:
            return free_nodes(lost)
        except RayError:
            return []


def _gpus(group: Group) -> int:
    """GPUs of a node, the same on all."""
    counts = {place.host: place.devices for place in group.places}
    if len(set(counts.values())) > 1:
        raise InputError(
            f"student nodes must have as many GPUs each, got {counts}. Give --slots, or make them "
            "alike."
        )
    return next(iter(counts.values()))
