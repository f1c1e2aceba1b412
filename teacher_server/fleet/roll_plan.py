"""What `roll` looks at before it replaces anything: folders, certificates, and room."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teacher_server.fleet.local_cluster import FleetState
from teacher_server.fleet.options import folders_anew
from teacher_server.fleet.pins import check_pin, pin_of
from teacher_server.fleet.ray_cluster import cluster_room, free_resources
from teacher_server.fleet.room import fits_one_more, weights_fit, weights_in
from teacher_server.fleet.status import KindStatus
from trainer.common.machine import memory_bytes
from trainer.models.frozen import read_card
from trainer.security.credentials import read_credentials


def options_anew(args: argparse.Namespace, state: FleetState) -> dict[str, dict[str, Any]]:
    """The options of the new replicas of each kind, checked with what they will read.

    Raises:
        UserError: if a folder holds another teacher than the fleet's, or certificates or token are
            of no use.
    """
    folders = folders_anew(args, state.options)
    options = {
        kind: _with_folder(kind, of_kind, folders.get(kind))
        for kind, of_kind in state.options.items()
    }
    read_credentials(state.security, "server")
    read_credentials(state.security, "client")
    return options


def _with_folder(kind: str, options: Mapping[str, Any], asked: Path | None) -> dict[str, Any]:
    folder = asked or Path(options["folder"])
    found = pin_of(read_card(folder, kind), folder, options.get("dtype", ""))
    check_pin(kind, folder, options["pin"], found)
    return {**options, "folder": str(folder.resolve())}


def has_room(state: FleetState, kind: str, statuses: Mapping[str, KindStatus]) -> bool:
    """Whether one more replica of a kind can run beside those that do, on the connected cluster."""
    counts = {it: len(statuses[it].replicas) for it in state.options if it in statuses}
    more = {**counts, kind: counts[kind] + 1}
    needs = {it: state.needs[it] for it in counts}
    if not fits_one_more(needs[kind], free_resources(), cluster_room(), needs, more):
        return False
    if not state.keeper_pid or needs[kind].num_gpus:
        return True
    folders = {it: Path(state.options[it]["folder"]) for it in counts}
    dtypes = {it: state.options[it]["dtype"] for it in counts}
    return weights_fit(weights_in(folders, dtypes), more, memory_bytes())
