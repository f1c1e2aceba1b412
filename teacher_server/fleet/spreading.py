"""Replicas of a kind spread over nodes first.

Serve's own way is Ray's SPREAD, which takes nodes in turn whatever the actor: between two replicas
of one kind a replica of another takes a turn, and both are on one node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def emptiest_node(
    needed: Mapping[str, float],
    free: Mapping[str, Mapping[str, float]],
    placed: Sequence[str],
    others: Counter[str],
) -> str | None:
    """The node with the fewest replicas of a kind; None if none has room for one more.

    Of several it is the one whose newest replica is the oldest: as replicas are replaced one by
    one, that one is the next to go.

    Args:
        needed: by a replica, by Ray's names.
        free: node -> what nothing has taken there.
        placed: nodes of the kind's replicas, oldest first.
        others: node -> replicas of all kinds.
    """
    counts = Counter(placed)
    newest = {node: at for at, node in enumerate(placed)}
    fitting = [
        node for node, has in free.items() if all(has.get(it, 0.0) >= needed[it] for it in needed)
    ]
    return min(
        fitting,
        key=lambda it: (counts[it], newest.get(it, -1), others[it], it),
        default=None,
    )
