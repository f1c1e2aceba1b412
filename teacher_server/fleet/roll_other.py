"""Replicas of another teacher start beside those that serve, which then retire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from teacher_server.fleet.deploy import (
    remove_group,
    replace,
    scale,
    start_beside,
    wait_until_ready,
)
from teacher_server.fleet.fleet_change import (
    FAILURES,
    FleetChange,
    Pairs,
    sentence,
    status_of,
    told,
)
from teacher_server.fleet.local_cluster import FleetState
from teacher_server.fleet.replacing import Replacing
from teacher_server.fleet.roll_same import roll_to_same
from teacher_server.fleet.scaling import ReplicaRange
from teacher_server.fleet.status import KindStatus, fleet_status
from teacher_server.fleet.succession import first_replicas, succeeded
from trainer.common.errors import MachineError


def roll_to_other(
    fleet: FleetChange,
    kind: str,
    options: Mapping[str, Any],
    drain_s: float,
    replaced: Sequence[str],
) -> Pairs:
    """Have another teacher of a kind follow; ids of old replicas and of new ones.

    Args:
        fleet: that is changed.
        kind: of both teachers.
        options: of the new replicas.
        drain_s: for how long no student has used the old ones when they end.
        replaced: kinds that were replaced already, for an error.

    Raises:
        MachineError: if the new replicas do not start: the old ones serve as before then.
    """
    before, old = fleet.state, fleet.state.current[kind]
    status = status_of(old)
    if not status.replica_range.max:
        # Nobody learns from a kind that is off.
        return roll_to_same(fleet, old, options, replaced)
    after = succeeded(before, kind, options, drain_s)
    new = after.current[kind]
    # One that retires has a range of its own.
    again = {new: status_of(new).replica_range} if new in before.options else {}
    try:
        _start(fleet, before, after, old, new, status)
    except KeyboardInterrupt:
        fleet.progress(_interrupted(fleet, old, new))
        raise
    except FAILURES as error:
        why = sentence(error)
        fleet.progress(f"{new}: {why} Taking it back.")
        _take_back(fleet, before, {old: status.replica_range, **again}, new, why)
        raise MachineError(
            f"{why} {old} serves as before; kinds that were replaced already: {told(replaced)}."
        ) from error
    fleet.progress(
        f"{old}: retires: it serves the students that learn from it, and ends when none has used "
        f"it for {drain_s:g} s"
    )
    return list(zip(status.replicas, status_of(new).replicas, strict=False))


def _start(
    fleet: FleetChange,
    before: FleetState,
    after: FleetState,
    old: str,
    new: str,
    status: KindStatus,
) -> None:
    wanted = status.replica_range
    if not wanted.min:
        _have_one(fleet, old, wanted)
    if new not in before.options:
        # What is left of a roll that could not be taken back.
        remove_group(new)
    fleet.record(after)
    fleet.progress(f"{new}: another teacher is started beside {old}")
    start_beside(after, new, wanted, fleet.scaling, first=first_replicas(status))
    fleet.wait(Replacing(new, []))
    retiring = ReplicaRange(min=0, max=max(1, status_of(old).target))
    replace(after, old, retiring, fleet.scaling, has_surge=False)


def _have_one(fleet: FleetChange, old: str, wanted: ReplicaRange) -> None:
    """Start a replica of the old teacher for students that have nothing to ask now, and will again.

    Before the record has the new one: a roll that ends meanwhile has changed nothing.
    """
    one = {old: ReplicaRange(min=1, max=wanted.max)}
    try:
        scale(fleet.state, one, fleet.scaling)
        wait_until_ready(one, fleet.state, timeout_s=fleet.timeout_s, progress=fleet.progress)
    except KeyboardInterrupt:
        replace(fleet.state, old, wanted, fleet.scaling, has_surge=False)
        raise


def _interrupted(fleet: FleetChange, old: str, new: str) -> str:
    if new not in fleet.state.current.values():
        return f"{old}: serves as before"
    if new not in fleet_status():
        return f"{new}: Serve does not have it; {old} serves on, and the next roll starts afresh"
    return f"{new}: Serve goes on with it; roll again, to have {old} retire"


def _take_back(
    fleet: FleetChange, before: FleetState, ranges: Mapping[str, ReplicaRange], new: str, why: str
) -> None:
    """Have the groups of before again, and no other.

    The record names the new group until it is gone: `down` and the next roll must find it.
    """
    try:
        if new not in before.options:
            remove_group(new)
        fleet.record(before)
        for group, wanted in ranges.items():
            replace(before, group, wanted, fleet.scaling, has_surge=False)
    except FAILURES as second:
        raise MachineError(
            f"{why} It could not be taken back, either: {sentence(second)} Look at: python -m "
            "teacher_server status"
        ) from second
