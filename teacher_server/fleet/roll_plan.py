"""What a roll is to do, checked before it replaces anything: folders, certificates and token."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teacher_server.fleet.groups import kind_of
from teacher_server.fleet.local_cluster import FleetState
from teacher_server.fleet.options import DRAIN_S, folders_anew
from teacher_server.fleet.pins import check_pin, pin_of
from teacher_server.scoring.kinds import SERVED_KINDS, checked_spread
from trainer.common.errors import InputError
from trainer.common.plugins import with_plugins
from trainer.models.frozen import read_card
from trainer.security.credentials import read_credentials


@dataclass(frozen=True, kw_only=True)
class RollPlan:
    """What a roll is to do."""

    same: Mapping[str, Mapping[str, Any]]
    """Group that serves new students -> options of its new replicas, of the same teacher."""
    others: Mapping[str, Mapping[str, Any]]
    """Kind -> options of the replicas of another teacher, whose group is a new one."""
    drain_s: float | None
    """Replicas that retire end when no student has used them for so long, also those that retire
    already; None: these keep their time, and others get DRAIN_S."""

    @property
    def new_drain_s(self) -> float:
        """The same for those that begin to retire."""
        return DRAIN_S if self.drain_s is None else self.drain_s


def plan_roll(args: argparse.Namespace, state: FleetState) -> RollPlan:
    """The plan of a roll, checked with what the new replicas will read.

    Raises:
        UserError: if a folder cannot be had or holds what the fleet cannot serve, or certificates
            or token are of no use.
    """
    folders = folders_anew(args, state.current)
    same, others = {}, {}
    for kind, group in state.current.items():
        options, asked = state.options[group], folders.get(kind)
        folder = asked or Path(options["folder"])
        found = pin_of(read_card(folder, kind), folder, options.get("dtype", ""))
        if asked is not None and found.weights_digest != options["pin"]["weights_digest"]:
            _check_apart(kind, folder, options)
            _check_spread(kind, folder, options)
            pin = dataclasses.asdict(found)
            others[kind] = {**options, "folder": str(folder.resolve()), "pin": pin}
        else:
            check_pin(kind, folder, options["pin"], found)
            same[group] = {**options, "folder": str(folder.resolve())}
    if others:
        _check_one_vocabulary({kind_of(group): it for group, it in same.items()} | others)
    read_credentials(state.security, "server")
    read_credentials(state.security, "client")
    return RollPlan(same=same, others=others, drain_s=args.drain_s)


def check_folder_of(state: FleetState, group: str) -> None:
    """Raise UserError unless a group's folder still holds its teacher."""
    options = state.options[group]
    folder = Path(options["folder"])
    found = pin_of(read_card(folder, kind_of(group)), folder, options.get("dtype", ""))
    check_pin(kind_of(group), folder, options["pin"], found)


def _check_apart(kind: str, folder: Path, options: Mapping[str, Any]) -> None:
    if folder.resolve() == Path(options["folder"]):
        raise InputError(
            f"another {kind} teacher must lie in a folder of its own, got {folder}, from which "
            "the replicas that serve were loaded: one that is started again could not load theirs. "
            "Put that teacher back there, and export the other one elsewhere."
        )


def _check_spread(kind: str, folder: Path, options: Mapping[str, Any]) -> None:
    num_gpus = int(options.get("num_gpus", 0))
    if num_gpus > 1:
        kinds = with_plugins(SERVED_KINDS, options["plugins"], "SERVED_KINDS")
        checked_spread(kind, folder, num_gpus, kinds[kind])


def _check_one_vocabulary(options: Mapping[str, Mapping[str, Any]]) -> None:
    digests = {kind: it["pin"]["vocabulary_digest"] for kind, it in options.items()}
    if len(set(digests.values())) > 1:
        raise InputError(
            "the teachers must share one vocabulary after the roll, got digests "
            + " and ".join(f"{digest} ({kind})" for kind, digest in digests.items())
            + ". Fit them on the same prepared data, and roll to all of them together."
        )
