"""`push DIR...`: prepared data and frozen teachers to the shared folder, whole or not at all."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.commands.cluster import Cluster
from cluster.commands.cluster_file import add_cluster_option
from cluster.commands.copying import copy_up
from cluster.commands.on_head import HEAD, answer_of
from cluster.head.digests import digests, num_bytes
from cluster.head.shared import DATA, NAME_RULE, TEACHERS, is_name
from trainer.common.errors import InputError, MachineError, MissingError

# trainer.data.manifest has the first, and imports torch.
DATA_FILE = "manifest.json"
TEACHER_FILE = "config.json"
# What trainer.pretrain leaves of the fit beside the model: checkpoints, and no part of the teacher.
FIT = "run"


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser("push", help="send prepared data and frozen teachers")
    add_cluster_option(parser)
    parser.add_argument(
        "--replace",
        action="store_true",
        help="also where a folder of the name has another content; who reads it keeps the old one",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Send each folder that is not there yet."""
    rooms = checked(arguments.folders)
    cluster = Cluster(arguments.file)
    for folder, room in rooms.items():
        send(cluster, folder, room, replace=arguments.replace)
    return 0


def checked(folders: Sequence[Path]) -> dict[Path, str]:
    """Every folder, and the room of the shared folder that it belongs to.

    Raises:
        MissingError: if one is not there.
        InputError: if one is neither data nor a teacher, or two have one name.
    """
    rooms = {folder.resolve(): _room(folder) for folder in folders}
    names = [(room, folder.name) for folder, room in rooms.items()]
    for room, name in names:
        if not is_name(name):
            raise InputError(f"DIR's name must be {NAME_RULE}, got {name}. Rename it.")
        if names.count((room, name)) > 1:
            raise InputError(f"DIR must have a name of its own, got two of {name}. Rename one.")
    return rooms


def _room(folder: Path) -> str:
    if not folder.is_dir():
        raise MissingError(f"DIR must be a folder, got {folder}. Check the path.")
    if (folder / DATA_FILE).is_file():
        return DATA
    if (folder / TEACHER_FILE).is_file():
        return TEACHERS
    raise InputError(
        f"DIR must be prepared data ({DATA_FILE}) or a frozen model ({TEACHER_FILE}), got "
        f"{folder}. Make it with trainer.data prepare or trainer.pretrain."
    )


def send(cluster: Cluster, folder: Path, room: str, *, replace: bool) -> None:
    """Copy one folder beside its place, compare, and have it take its place.

    Raises:
        InputError: if another content is there, and is not to be replaced.
        MachineError: if what arrived is not what was sent.
    """
    label = f"{room}/{folder.name}"
    skipped = FIT if room == TEACHERS else ""
    sent, size = digests(folder, skipped=skipped), num_bytes(folder, skipped=skipped)
    place = ("--bytes", str(size), room, folder.name)
    answer = answer_of(cluster, "incoming", *place)
    if answer["there"] == sent:
        _say(f"{label}: there already, {len(sent)} files with the same digests")
        return
    if answer["there"] is not None and not replace:
        raise InputError(
            f"{label} on the shared folder must hold what {folder} does, got other files. Rename "
            "yours, or give --replace: replicas of the old teacher must be rolled then."
        )
    for exact in (False, True):
        copy_up(cluster.head, folder, answer["part"], skipped=skipped, exact=exact)
        done = json.loads(
            cluster.answer([*HEAD, "placed", room, folder.name], stdin=json.dumps(sent))
        )
        if not done["wrong"]:
            _say(f"{label}: {len(sent)} files, {size / 1e6:.1f} MB, digests compared")
            return
    raise MachineError(
        f"{label} must arrive as it is here, got {len(done['wrong'])} files that differ. Nothing "
        "may write into it meanwhile; look at both disks.",
        details=done["wrong"][:10],
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
