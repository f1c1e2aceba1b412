"""The folder that all nodes mount at one path, and what lies where in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.students.run_files import NAME, VARIABLE
from trainer.common.errors import InputError, MachineError, MissingError

NAME_RULE = "at most 64 letters, digits and . _ -, with a letter or digit first"
DATA = "data"
TEACHERS = "teachers"
CONFIGS = "configs"
PULLED = "pulled"
# A checkpoint that does not fit is an error hours later.
MIN_FREE_BYTES = 1 << 28
OWN_DISK = ("ext2", "ext3", "ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs")
"""Types of file systems that end with their machine; others are mounted from elsewhere."""


@dataclass(frozen=True, kw_only=True)
class SharedFolder:
    """Paths below the shared folder."""

    root: Path

    def of(self, room: str, name: str) -> Path:
        """A folder of data, teachers, runs, configs or pulled, by its name."""
        if not is_name(name):
            raise InputError(f"names must be {NAME_RULE}, got {name!r}.")
        return self.root / room / name

    def check_room(self, needed_bytes: int = MIN_FREE_BYTES) -> None:
        """Raise MachineError if so much does not fit."""
        free = shutil.disk_usage(self.root).free
        if free < needed_bytes:
            raise MachineError(
                f"{self.root} must have {needed_bytes / 1e9:.1f} GB free, got {free / 1e9:.1f}. "
                "Delete runs that were pulled, or take a larger file system."
            )


def is_name(text: str) -> bool:
    """Whether a text can be the name of a run or a folder: of a path, a shell and an actor, too."""
    return NAME.fullmatch(text) is not None


def shared_folder(environment: Mapping[str, str] = os.environ) -> SharedFolder:
    """The checked folder of this node.

    Raises:
        InputError: if the node's environment names none.
        MissingError: if it is not there.
        MachineError: if nothing can be written there.
    """
    text = environment.get(VARIABLE)
    if not text:
        raise InputError(
            f"{VARIABLE} must name the shared folder on every node, got nothing. Run `python -m "
            "cluster up FILE` again."
        )
    root = Path(text)
    if not root.is_dir():
        raise MissingError(
            f"{root} must be the shared folder, got none on this node. Mount it on all nodes at "
            "that path."
        )
    if not os.access(root, os.W_OK | os.X_OK):
        raise MachineError(
            f"{root} must be writable for {os.environ.get('USER', 'this user')}, got a folder of "
            f"user {root.stat().st_uid}. Change its owner or mode."
        )
    return SharedFolder(root=root)


def outlives_this_machine(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether a folder is mounted from elsewhere: what is in it stays when this machine ends."""
    best, kind = Path("/"), "ext4"
    for line in mounts.read_text().splitlines():
        _, point, found, *_ = line.split(" ")
        place = Path(point.replace("\\040", " "))
        if folder.resolve().is_relative_to(place) and len(place.parts) >= len(best.parts):
            best, kind = place, found
    return kind not in OWN_DISK
