"""Another teacher of a kind follows the one that serves, which retires.

Students that start later take the new one; those that learn from the old one go on with it, and its
replicas end with them. A roll back to a teacher that still retires takes its replicas again.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any

from teacher_server.fleet.groups import kind_of, next_group
from teacher_server.fleet.local_cluster import FleetState
from teacher_server.fleet.scaling import ReplicaRange
from teacher_server.fleet.status import KindStatus, status_in

Options = Mapping[str, Any]


def succeeded(state: FleetState, kind: str, options: Options, drain_s: float) -> FleetState:
    """The fleet in which another teacher of a kind has followed.

    Args:
        state: the fleet before.
        kind: of both.
        options: of the new replicas.
        drain_s: for how long no student has used the old ones when they end.
    """
    new = _successor(state, kind, options)
    retiring = {group: it for group, it in state.retiring.items() if group != new}
    # Serve leaves replicas of an equal version alone, and a name may have been another teacher's.
    fresh = {} if new in state.options else {new: secrets.token_hex(4)}
    return dataclasses.replace(
        state,
        options={**state.options, new: options},
        versions={**state.versions, **fresh},
        retiring={**retiring, state.current[kind]: drain_s},
    )


def _successor(state: FleetState, kind: str, options: Options) -> str:
    """The group of the other teacher: one that retires with that teacher, or a new one."""
    for group in state.retiring:
        if kind_of(group) == kind and state.options[group]["pin"] == options["pin"]:
            return group
    return next_group(kind, state.options)


def undone(state: FleetState, statuses: Mapping[str, KindStatus]) -> FleetState:
    """The fleet without successors that Serve never got: those whom they were to follow serve on.

    A roll that ends between its record and its call of Serve leaves such a one.
    """
    for kind, new in state.current.items():
        before = [group for group in state.retiring if kind_of(group) == kind]
        if new not in statuses and before:
            state = without_groups(state, [new])
            retiring = {group: it for group, it in state.retiring.items() if group != before[-1]}
            state = dataclasses.replace(state, retiring=retiring)
    return state


def first_replicas(status: KindStatus) -> int:
    """How many replicas of another teacher follow those of a group: one at least, if it is on."""
    return status.replica_range.clip(max(1, status.target))


def further_replicas(
    before: FleetState, after: FleetState, statuses: Mapping[str, KindStatus]
) -> Counter[str]:
    """Group -> replicas that must be started for the teachers that follow, beside all that run.

    Raises:
        MachineError: if Serve does not have a group that serves.
    """
    more: Counter[str] = Counter()
    for kind, new in after.current.items():
        old = status_in(statuses, before.current[kind])
        if new == before.current[kind] or not old.replica_range.max:
            continue
        running = len(statuses[new].replicas) if new in statuses else 0
        more[new] = max(0, first_replicas(old) - running)
        # For students that have nothing to ask now, and will again.
        more[before.current[kind]] = 0 if old.target else 1
    return more


def live_groups(state: FleetState, statuses: Mapping[str, KindStatus]) -> list[str]:
    """The groups of a fleet without those that have retired and ended."""
    return [group for group in state.options if group not in ended_groups(state, statuses)]


def counted_ranges(
    state: FleetState, statuses: Mapping[str, KindStatus]
) -> dict[str, ReplicaRange]:
    """How many replicas each live group may have: one that retires has no more than now.

    Raises:
        MachineError: if Serve does not have a group that serves.
    """
    found = {it: status_in(statuses, it) for it in live_groups(state, statuses)}
    return {
        it: ReplicaRange.of(status.target) if it in state.retiring else status.replica_range
        for it, status in found.items()
    }


def ended_groups(state: FleetState, statuses: Mapping[str, KindStatus]) -> list[str]:
    """Groups that have retired and have no replica left."""
    return [group for group in state.retiring if group not in statuses or statuses[group].has_ended]


def without_groups(state: FleetState, gone: list[str]) -> FleetState:
    """The fleet without groups that have ended."""
    return dataclasses.replace(
        state,
        options={group: it for group, it in state.options.items() if group not in gone},
        retiring={group: it for group, it in state.retiring.items() if group not in gone},
        versions={group: it for group, it in state.versions.items() if group not in gone},
    )
