"""The options of the commands in main.py, and the check of their ranges."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from teacher_server.fleet.scaling import ReplicaRange, ScalingTarget
from teacher_server.scoring.determinism import ALONE
from teacher_server.scoring.kinds import SERVED_KINDS, ServedKind, check_dtype, checked_spread
from trainer.common.command import CommandParser, number, whole
from trainer.common.errors import InputError
from trainer.common.machine import num_cpus
from trainer.kinds.names import BF16, FLOAT32, FP16

TAKEN_KIND = "directory"
REPLICAS = "KIND=COUNT|KIND=MIN..MAX[,...]"
DTYPES = "KIND=TYPE[,...]"
GPUS = "COUNT|KIND=COUNT[,...]"
MAX_GPUS = 64
# Options of earlier versions, and what to do without them.
REMOVED = {
    "--object-store-mb": "Leave it out: a fleet keeps nothing in Ray's object store.",
}
MAX_CPUS = 4096
MAX_PORT = 65_535
DEFAULT_FLEET = Path("runs/fleet.json")
KEEP = "keep"
DRAIN_S = 600.0
"""The command that `up` runs to own a local cluster, and its word to a cluster that stays."""


def parse(argv: list[str]) -> argparse.Namespace:
    """The `command` and its options.

    Raises:
        InputError: for options that are not those of the command, or out of range, or removed.
    """
    _refuse_removed(argv)
    parser = CommandParser(
        prog="python -m teacher_server", description="A fleet of frozen teachers behind gRPC."
    )
    commands = parser.add_commands("up|scale|roll|status|down|certificates")
    up = commands.add_parser("up", help="start the fleet")
    _add_up_options(up)
    scale_to = commands.add_parser("scale", help="change the number of replicas of a kind")
    scale_to.add_argument("replicas", metavar=REPLICAS, help="a number, or autoscaling between two")
    roll = commands.add_parser("roll", help="replace all replicas under running students")
    _add_folder_options(roll)
    roll.add_argument(
        "--drain-s",
        type=number(1, 2_592_000),
        help="seconds without a student after which replicas of a teacher that was followed end "
        f"(default {DRAIN_S:g}); if given, also of those that retire already",
    )
    roll.add_argument("--json", action="store_true", help="what replaced what, as JSON on stdout")
    _add_timeout(roll)
    status = commands.add_parser("status", help="kinds, replicas, endpoints and their state")
    _add_status_options(status)
    down = commands.add_parser("down", help="stop the fleet, and Ray if `up` started it")
    certificates = commands.add_parser("certificates", help="make a development set for --tls")
    certificates.add_argument("--output", type=Path, required=True, metavar="DIR")
    certificates.add_argument(
        "--days", type=whole(1, 3650), default=365, help="how long they are valid"
    )
    for command in (up, scale_to, roll, status, down):
        command.add_argument(
            "--fleet", type=Path, default=DEFAULT_FLEET, help="file that records what is up"
        )
    for command in (up, scale_to):
        _add_scaling_options(command)
    return parser.parse_args(argv)


def parse_keep(argv: list[str]) -> argparse.Namespace:
    """The options of `keep`, which `up` runs to own a local cluster; no user is offered it."""
    parser = CommandParser(prog=f"python -m teacher_server {KEEP}")
    parser.add_argument("--num-cpus", type=whole(1, MAX_CPUS), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    return parser.parse_args(argv)


def parse_ranges(text: str, kinds: Collection[str] = SERVED_KINDS) -> dict[str, ReplicaRange]:
    """Replicas of each kind, from "dialogue=0..4,recommendation=1"; ValueError for other kinds."""
    ranges: dict[str, ReplicaRange] = {}
    for part in filter(None, text.split(",")):
        kind, _, count = part.partition("=")
        lowest, _, highest = count.partition("..")
        counts = (lowest, highest or lowest)
        if kind not in kinds or not all(it.isascii() and it.isdecimal() for it in counts):
            raise InputError(
                f"replicas must be KIND=COUNT or KIND=MIN..MAX with a kind of {', '.join(kinds)} "
                f"and counts >= 0, got {part!r}."
            )
        if kind in ranges:
            raise InputError(f"replicas must name every kind once, got {kind} twice in {text!r}.")
        if int(lowest) > int(highest or lowest):
            raise InputError(f"replicas must be KIND=MIN..MAX with MIN <= MAX, got {part!r}.")
        ranges[kind] = ReplicaRange(min=int(lowest), max=int(highest or lowest))
    return ranges


def asked_folders(options: argparse.Namespace, kinds: Collection[str]) -> dict[str, Path]:
    """The folder of each kind that `up` is to serve.

    Raises:
        InputError: if no kind is given, or an unknown one, or one twice, or one has a taken name.
    """
    if TAKEN_KIND in kinds:
        # Its Serve application and its line of `status` would be the Directory's.
        raise InputError(
            f"a kind of teachers must not be named {TAKEN_KIND}, got one. Rename it in its plugin."
        )
    folders = _given_folders(options, kinds)
    if not folders:
        raise InputError("--dialogue or --recommendation must be given, got neither.")
    return folders


def folders_anew(options: argparse.Namespace, kinds: Collection[str]) -> dict[str, Path]:
    """The folders that `roll` is to load, of those kinds of the fleet that are given one.

    Raises:
        InputError: for a kind that the fleet does not have, or one that is given twice.
    """
    folders = _given_folders(options, kinds)
    for kind, folder in folders.items():
        if kind not in kinds:
            raise InputError(
                f"--{kind} must be left out, got {folder}: the fleet has {', '.join(kinds)}. For "
                "other kinds take it down and up."
            )
    return folders


def _given_folders(options: argparse.Namespace, kinds: Collection[str]) -> dict[str, Path]:
    given = [(kind, vars(options)[kind]) for kind in SERVED_KINDS if vars(options)[kind]]
    given += [_kind_and_folder(text, kinds) for text in options.teacher]
    folders = dict(given)
    if len(folders) < len(given):
        raise InputError(
            f"every kind must have one folder, got {', '.join(kind for kind, _ in given)}. Name "
            "each once, by its own option or by --teacher."
        )
    return folders


def _kind_and_folder(text: str, kinds: Collection[str]) -> tuple[str, Path]:
    kind, _, folder = text.partition("=")
    if kind not in kinds or not folder:
        raise InputError(
            f"--teacher must be KIND=DIR with a kind of {', '.join(kinds)}, got {text!r}. "
            "A plugin may add others: give its module with --plugin."
        )
    return kind, Path(folder)


def parse_dtypes(text: str, kinds: Mapping[str, ServedKind]) -> dict[str, str]:
    """The type in which teachers of each of these kinds compute, from "dialogue=bf16".

    Raises:
        InputError: for another kind, one that is named twice, or a type that it cannot compute in.
    """
    dtypes: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        kind, _, dtype = part.partition("=")
        if kind not in kinds or not dtype:
            raise InputError(
                f"--dtype must be {DTYPES} with a kind of {', '.join(kinds)}, got {part!r}."
            )
        if kind in dtypes:
            raise InputError(f"--dtype must name every kind once, got {kind} twice in {text!r}.")
        check_dtype(kind, dtype, kinds[kind])
        dtypes[kind] = dtype
    return {kind: dtypes.get(kind, FLOAT32) for kind in kinds}


def parse_gpus(
    text: str, folders: Mapping[str, Path], kinds: Mapping[str, ServedKind]
) -> dict[str, float]:
    """GPUs of a replica of each kind that is given some, from "1" for all or "dialogue=2".

    Raises:
        InputError: for another kind, one that is named twice, a number that no replica can have,
            or more than one GPU for teachers that lie on one.
    """
    gpus: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        kind, equals, count = part.rpartition("=")
        named = [kind] if equals else list(folders)
        if unknown := [it for it in named if it not in folders]:
            raise InputError(
                f"--num-gpus must be {GPUS} with a kind of {', '.join(folders)}, got "
                f"{unknown[0]!r}."
            )
        if twice := [it for it in named if it in gpus]:
            raise InputError(f"--num-gpus must name every kind once, got {twice[0]} in {text!r}.")
        gpus.update(dict.fromkeys(named, _gpus_of_one(count)))
    for kind, number_of in gpus.items():
        if number_of > 1:
            checked_spread(kind, folders[kind], int(number_of), kinds[kind])
    return gpus


def port_range(text: str) -> tuple[int, int]:
    """First and last port, from "50100-50199"."""
    first, _, last = text.partition("-")
    ports = [int(it) for it in (first, last) if it.isascii() and it.isdecimal() and len(it) < 6]
    if len(ports) < 2 or not 1 <= ports[0] <= ports[1] <= MAX_PORT:
        raise argparse.ArgumentTypeError(
            f"must be FIRST-LAST with ports of 1 to {MAX_PORT}, the lower one first, got {text}"
        )
    return ports[0], ports[1]


def _gpus_of_one(text: str) -> float:
    try:
        count = number(0, MAX_GPUS)(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"--num-gpus {error}.") from error
    if count > 1 and count % 1:
        raise InputError(f"--num-gpus must be at most 1 or whole, got {count}.")
    return count


def asked_batch_limits(options: argparse.Namespace) -> dict[str, int]:
    """The limits of device batches that were asked for, fields of BatchLimits."""
    return {"token_budget": options.token_budget, **(ALONE if options.deterministic else {})}


def asked_scaling(options: argparse.Namespace, otherwise: ScalingTarget) -> ScalingTarget:
    """The targets of autoscaling: those given, and `otherwise` for the rest."""
    given = {"idle_s": options.idle_s}
    if options.target_queue_ms is not None:
        given["target_queue_s"] = options.target_queue_ms / 1e3
    return dataclasses.replace(
        otherwise, **{name: value for name, value in given.items() if value is not None}
    )


def _refuse_removed(argv: Sequence[str]) -> None:
    for name in (argument.partition("=")[0] for argument in argv):
        if name in REMOVED:
            raise InputError(f"options must be those of --help, got {name}. {REMOVED[name]}")


def _add_status_options(status: argparse.ArgumentParser) -> None:
    shown = status.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="one JSON object on stdout")
    shown.add_argument(
        "--watch",
        nargs="?",
        type=number(0.2, 3600),
        const=2.0,
        metavar="SECONDS",
        help="a table that refreshes, until Ctrl-C",
    )
    shown.add_argument(
        "--prometheus", action="store_true", help="where to scrape, as file_sd_configs wants it"
    )


def _add_scaling_options(command: argparse.ArgumentParser) -> None:
    _add_timeout(command)
    command.add_argument(
        "--target-queue-ms",
        type=number(1, 600_000),
        help=f"autoscaling: wait before the device, default {ScalingTarget.target_queue_s * 1e3:g}",
    )
    command.add_argument(
        "--idle-s",
        type=number(5, 86_400),
        help=f"autoscaling: down to MIN = 0 after this time idle, default {ScalingTarget.idle_s:g}",
    )


def _add_timeout(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--timeout", type=number(1, 86_400), default=300.0, help="seconds to be ready in"
    )


def _add_folder_options(command: argparse.ArgumentParser) -> None:
    for kind in SERVED_KINDS:
        command.add_argument(f"--{kind}", type=Path, metavar="DIR", help=f"frozen {kind} teacher")
    command.add_argument(
        "--teacher",
        action="append",
        default=[],
        metavar="KIND=DIR",
        help="a frozen teacher of any kind; may be repeated",
    )


def _add_up_options(up: argparse.ArgumentParser) -> None:
    _add_folder_options(up)
    up.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module with a dictionary SERVED_KINDS of further kinds; may be repeated",
    )
    up.add_argument(
        "--replicas", default="", metavar=REPLICAS, help="or autoscaling; default: 1 of each"
    )
    up.add_argument(
        "--dtype",
        default="",
        metavar=DTYPES,
        help=f"of weights and forward: {FLOAT32} (default), {BF16} or {FP16} (dialogue)",
    )
    up.add_argument(
        "--deterministic",
        action="store_true",
        help="score each example alone: an answer's bytes depend on its request alone; slower",
    )
    up.add_argument("--port", type=whole(1, MAX_PORT), default=50051, help="of the Directory")
    up.add_argument("--host", default="127.0.0.1", help="address to listen on")
    up.add_argument(
        "--replica-ports",
        type=port_range,
        default=(),
        metavar="FIRST-LAST",
        help="of replicas, the first free one on their node; default: any free port",
    )
    up.add_argument(
        "--tls", type=Path, metavar="DIR", help="folder with ca.pem, server.* and client.*"
    )
    up.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file of the token that every call must bear",
    )
    up.add_argument(
        "--insecure",
        action="store_true",
        help="allow a host beyond this machine without --tls and --token-file",
    )
    up.add_argument(
        "--metrics",
        nargs="?",
        const="127.0.0.1",
        default="",
        metavar="HOST",
        help="serve Prometheus metrics of every replica there; default: this machine alone",
    )
    up.add_argument(
        "--spans", default="", metavar="URL", help="OTLP/HTTP receiver of OpenTelemetry spans"
    )
    up.add_argument("--address", help="Ray cluster; default: RAY_ADDRESS, or a new local one")
    add = up.add_argument
    add("--threads", type=whole(1, 1024), default=1, help="torch threads of a replica")
    up.add_argument(
        "--num-cpus", type=number(0, 1024), default=0.5, help="CPUs of a replica, for placement"
    )
    add("--num-gpus", default="", metavar=GPUS, help="of a replica; default: 1, or a part of it")
    up.add_argument(
        "--token-budget", type=whole(1, 1 << 24), default=4096, help="tokens of a device batch"
    )
    up.add_argument(
        "--cluster-cpus",
        type=whole(1, MAX_CPUS),
        default=max(4, num_cpus()),
        help="CPUs of a new local cluster, for placement",
    )
