"""Replicas of a group are replaced one by one by replicas of the same teacher."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from teacher_server.fleet.deploy import replace
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
from teacher_server.fleet.roll_room import has_room
from teacher_server.fleet.status import KindStatus, fleet_status
from trainer.common.errors import MachineError


def roll_to_same(
    fleet: FleetChange, group: str, options: Mapping[str, Any], replaced: Sequence[str]
) -> Pairs:
    """Replace the replicas of a group; old and new ids in the order of the places taken.

    Args:
        fleet: that is changed.
        group: whose replicas.
        options: of the new ones.
        replaced: kinds that were replaced already, for an error.

    Raises:
        MachineError: if new replicas do not start: the old ones are back then.
    """
    before, status = fleet.state, status_of(group)
    replacing = Replacing(group, list(status.replicas))
    has_surge = has_room(fleet.state, group, fleet_status())
    if not has_surge and len(status.replicas) == 1:
        fleet.progress(f"{group}: no room for a second replica, so students wait for a start")
    try:
        fleet.record(_changed(before, group, options))
        replace(fleet.state, group, status.replica_range, fleet.scaling, has_surge=has_surge)
        fleet.wait(replacing)
    except KeyboardInterrupt:
        fleet.progress(f"{group}: Serve goes on with it; `status` shows how far it is")
        raise
    except FAILURES as error:
        why = sentence(error)
        fleet.progress(f"{group}: {why} Taking it back.")
        _take_back(fleet, group, before, status, why, has_surge=has_surge)
        raise MachineError(
            f"{why} The {group} replicas are those of before; kinds that were replaced already: "
            f"{told(replaced)}."
        ) from error
    return replacing.pairs


def _take_back(
    fleet: FleetChange,
    group: str,
    before: FleetState,
    status: KindStatus,
    why: str,
    *,
    has_surge: bool,
) -> None:
    """Have the replicas of before again."""
    try:
        fleet.record(before)
        new = [it for it in status_of(group).replicas if it not in status.replicas]
        replace(before, group, status.replica_range, fleet.scaling, has_surge=has_surge)
        fleet.wait(Replacing(group, new))
    except FAILURES as second:
        raise MachineError(
            f"{why} The replicas of before are not all back, either: {sentence(second)} Look at: "
            "python -m teacher_server status"
        ) from second


def _changed(state: FleetState, group: str, options: Mapping[str, Any]) -> FleetState:
    """The fleet with other options of a group, and with a version that it never had."""
    return dataclasses.replace(
        state,
        options={**state.options, group: options},
        versions={**state.versions, group: secrets.token_hex(4)},
    )
