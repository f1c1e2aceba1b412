"""`teachers` on the head: the command of the fleet, with what the cluster knows filled in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cluster.head.nodes import has_gpus
from cluster.head.shared import TEACHERS, SharedFolder, shared_folder
from teacher_server.fleet.options import parse
from trainer.common.errors import MissingError

SERVER_CREDENTIALS = "~/conkd-tls-server"
TOKEN = "~/conkd-tls/token"
# Time for spot nodes to start.
TIMEOUT_S = 1800
PORTS = "50100-50199"
KINDS = ("dialogue", "recommendation")


def fleet_command(argv: Sequence[str]) -> list[str]:
    """Arguments of Python for `python -m teacher_server`, checked.

    Raises:
        UserError: if the command is none of the fleet's, or a folder is not there.
    """
    command, *rest = checked(argv)
    if command == "up":
        rest = _filled_up(rest)
    elif command == "roll":
        rest = _with_folders(rest, shared_folder())
    parse([command, *rest])
    return ["-m", "teacher_server", command, *rest]


def checked(argv: Sequence[str]) -> list[str]:
    """The command as the fleet's own parser takes it: `up KIND=COUNT` is `up --replicas ...`.

    Raises:
        InputError: if the command or an option is none of the fleet's.
    """
    command, *rest = argv
    if command == "up" and rest and not rest[0].startswith("-"):
        rest = ["--replicas", *rest]
    parse([command, *rest])
    return [command, *rest]


def _filled_up(rest: list[str]) -> list[str]:
    """`up`'s options; what is given goes before what is filled in."""
    shared = shared_folder()
    rest = _with_folders(rest, shared)
    kinds = [it for it in KINDS if (shared.root / TEACHERS / it).is_dir()]
    known = {
        "--address": "auto",
        "--host": "0.0.0.0",
        "--timeout": str(TIMEOUT_S),
        "--tls": os.path.expanduser(SERVER_CREDENTIALS),
        "--token-file": os.path.expanduser(TOKEN),
        "--replica-ports": PORTS,
    }
    if not _is_given(rest, (*(f"--{kind}" for kind in KINDS), "--teacher")):
        if not kinds:
            raise MissingError(
                f"a frozen teacher must be on the shared folder, got none at {shared.root}/"
                f"{TEACHERS}/{{{','.join(KINDS)}}}. Send them: python -m cluster push "
                "build/dialogue build/recommendation"
            )
        known |= {f"--{kind}": str(shared.root / TEACHERS / kind) for kind in kinds}
    if not _is_given(rest, ("--num-gpus",)):
        counts = {"dialogue": int(has_gpus()), "recommendation": 0}
        known["--num-gpus"] = ",".join(f"{it}={counts[it]}" for it in kinds if it in counts) or "0"
    return [
        *rest,
        *(p for key, it in known.items() if not _is_given(rest, (key,)) for p in (key, it)),
    ]


def _with_folders(rest: list[str], shared: SharedFolder) -> list[str]:
    """Folders of teachers that are named as on the laptop, as they lie on the shared folder."""
    options = tuple(f"--{kind}" for kind in KINDS)
    found = list(rest)
    for place, part in enumerate(rest):
        before = rest[place - 1] if place else ""
        if before in options and not part.startswith("/"):
            folder = shared.of(TEACHERS, Path(part).name)
            if not folder.is_dir():
                raise MissingError(
                    f"{before} must lie on the shared folder, got {part} and no {folder}. Send it: "
                    f"python -m cluster push {part}"
                )
            found[place] = str(folder)
    return found


def _is_given(rest: Sequence[str], options: Sequence[str]) -> bool:
    return any(it.partition("=")[0] in options for it in rest)
