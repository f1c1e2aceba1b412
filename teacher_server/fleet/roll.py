"""`roll`: replicas are replaced one by one while students train on, and then the Directory.

A new replica is a new process: it reads certificates and token anew and imports the software that
is installed now. Serve replaces the replicas of another version of their deployment; here that
version is changed, and what Serve does is watched. Another teacher is a deployment of its own.
"""

from __future__ import annotations

import dataclasses

from teacher_server.fleet.deploy import remove_group, replace_directory, wait_until_ready
from teacher_server.fleet.directory_server import fetch_fleet
from teacher_server.fleet.fleet_change import FAILURES, FleetChange, Pairs, sentence, status_of
from teacher_server.fleet.groups import kind_of
from teacher_server.fleet.local_cluster import FleetState
from teacher_server.fleet.replacing import Replacing
from teacher_server.fleet.roll_other import roll_to_other
from teacher_server.fleet.roll_plan import RollPlan, check_folder_of
from teacher_server.fleet.roll_room import check_room_beside
from teacher_server.fleet.roll_same import roll_to_same
from teacher_server.fleet.status import FAILED, fleet_status
from teacher_server.fleet.succession import (
    ended_groups,
    further_replicas,
    live_groups,
    succeeded,
    undone,
    without_groups,
)
from teacher_server.fleet.trust import authorities, distrust, dropped
from trainer.common.errors import InputError, MachineError

DIRECTORY = "directory"
# For the Directory to answer: one that is asked once, on a machine that is busy with students.
ANSWER_S = 20.0


def roll_fleet(fleet: FleetChange, plan: RollPlan) -> dict[str, Pairs]:
    """Replace all replicas and the Directory; old and new ids of each kind.

    Raises:
        MachineError: if new replicas of a kind do not start: its old ones are back then.
        InputError: if running students could not go on with certificates or token of now, or the
            cluster has no room for another teacher beside the one that serves.
    """
    replaced: dict[str, Pairs] = {}
    if status_of(DIRECTORY).state == FAILED:
        # A roll before ended with it: the teachers are of now, and nobody answers the check.
        _check_no_folder(fleet, plan)
        fleet.progress("the Directory did not start: it alone is started anew")
    else:
        _check(fleet, plan)
        before, followed = fleet.state, list[str]()
        try:
            _roll_teachers(fleet, plan, replaced, followed)
        except KeyboardInterrupt:
            if followed:
                fleet.progress("roll again: until then new students may take the old teacher")
            raise
        except MachineError as error:
            # One that could not be taken back is in the record: the Directory must not tell of it.
            if not followed or {*followed} != _changed_kinds(before, fleet.state):
                raise
            raise MachineError(f"{error} {_halfway(fleet, followed)}") from error
    try:
        replaced[DIRECTORY] = _roll_directory(fleet)
        known = fleet_status()
        ranges = {it: known[it].replica_range for it in live_groups(fleet.state, known)}
        wait_until_ready(ranges, fleet.state, timeout_s=fleet.timeout_s, progress=fleet.progress)
    except MachineError as error:
        raise MachineError(
            f"{error} All teachers are replaced, and go on with the students that they have. "
            "For the Directory, roll again."
        ) from error
    now = authorities(fleet.state.security)
    fleet.record(dataclasses.replace(fleet.state, authorities=now))
    return replaced


def undo_interrupted(fleet: FleetChange) -> bool:
    """Have the record of before again where an interrupted roll did not come to tell Serve.

    The plan of a roll must be made after that; returns whether the record has changed.
    """
    before = fleet.state
    after = undone(before, fleet_status())
    if after == before:
        return False
    for group in before.options.keys() - after.options.keys():
        kind = kind_of(group)
        fleet.progress(
            f"{group}: a roll was interrupted before Serve had it; {after.current[kind]} serves on"
        )
    fleet.record(after)
    return True


def _check(fleet: FleetChange, plan: RollPlan) -> None:
    """All that can be known before anything is replaced."""
    _check_files(fleet)
    known = fleet_status()
    before = after = without_groups(fleet.state, ended_groups(fleet.state, known))
    for group in before.retiring:
        check_folder_of(before, group)
    for kind, options in plan.others.items():
        after = succeeded(after, kind, options, plan.new_drain_s)
    check_room_beside(after, further_replicas(before, after, known), known)
    for doubt in (distrust, dropped):
        if why := doubt(fleet.state.security, fleet.state.authorities):
            fleet.progress(f"warning: {why}")


def _check_no_folder(fleet: FleetChange, plan: RollPlan) -> None:
    options = fleet.state.options
    moved = [group for group, it in plan.same.items() if it["folder"] != options[group]["folder"]]
    if plan.others or moved:
        raise InputError(
            f"the Directory must run before a roll to another folder, got {FAILED}. Roll without "
            "options, which starts it anew, then again with them."
        )


def _check_files(fleet: FleetChange) -> None:
    """A student that bears the files of now must get on with the servers of before.

    Most mistakes show there.
    """
    try:
        fetch_fleet(fleet.state.directory, ANSWER_S, fleet.state.security)
    except MachineError as error:
        raise InputError(
            "the Directory must answer to the certificates and the token of now, got: "
            f"{error} For another token, or a CA that it does not know, take the fleet down "
            "and up."
        ) from error


def _roll_teachers(
    fleet: FleetChange, plan: RollPlan, replaced: dict[str, Pairs], followed: list[str]
) -> None:
    """Replace all replicas; `replaced` and `followed` tell how far it came if it fails."""
    gone = ended_groups(fleet.state, fleet_status())
    for group in gone:
        remove_group(group)
    if gone:
        fleet.record(without_groups(fleet.state, gone))
    retiring = {group: fleet.state.options[group] for group in fleet.state.retiring}
    if plan.drain_s is not None and not retiring and not plan.others:
        fleet.progress("no teacher retires, so --drain-s changes nothing")
    for group, options in {**retiring, **plan.same}.items():
        if group in retiring and plan.drain_s is not None:
            _drain_for(fleet, group, plan.drain_s)
        pairs = roll_to_same(fleet, group, options, [*replaced])
        replaced.setdefault(kind_of(group), []).extend(pairs)
    for kind, options in plan.others.items():
        old = fleet.state.current[kind]
        pairs = roll_to_other(fleet, kind, options, plan.new_drain_s, [*replaced])
        followed += [kind] if fleet.state.current[kind] != old else []
        replaced.setdefault(kind, []).extend(pairs)


def _drain_for(fleet: FleetChange, group: str, drain_s: float) -> None:
    """Have a group that retires already do so by another time; Serve gets it with the replicas."""
    retiring = {**fleet.state.retiring, group: drain_s}
    fleet.record(dataclasses.replace(fleet.state, retiring=retiring))
    fleet.progress(f"{group}: retires: it ends when no student has used it for {drain_s:g} s")


def _changed_kinds(before: FleetState, now: FleetState) -> set[str]:
    """The kinds that another teacher serves now, as the record has it."""
    return {kind for kind, group in now.current.items() if group != before.current[kind]}


def _halfway(fleet: FleetChange, followed: list[str]) -> str:
    """Tell the Directory of the teachers that follow, though another kind failed; a remedy."""
    kinds = ", ".join(followed)
    try:
        _roll_directory(fleet)
    except FAILURES as error:
        return (
            f"The Directory does not know of the other {kinds} teacher: {sentence(error)} Roll "
            "again: until then new students may take the old one."
        )
    pins = [fleet.state.options[group].get("pin", {}) for group in fleet.state.current.values()]
    if len({pin.get("vocabulary_digest") for pin in pins}) == 1:
        return f"New students take the other {kinds} teacher."
    return (
        f"New students take the other {kinds} teacher, whose vocabulary is not that of the other "
        "kinds: they end. Roll again with the folders of all kinds of the one vocabulary, or with "
        f"that of the {kinds} teacher of before."
    )


def _roll_directory(fleet: FleetChange) -> Pairs:
    replacing = Replacing(DIRECTORY, list(status_of(DIRECTORY).replicas))
    replace_directory(fleet.state)
    fleet.wait(replacing)
    return replacing.pairs
