"""The command lines of `python -m cluster.students`."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from dataclasses import dataclass
from pathlib import Path

from cluster.students.run_files import NAME, NAME_RULE
from trainer.common.command import MAX_RANKS, CommandParser, number, whole
from trainer.common.errors import InputError

DESCRIPTION = """Students on the student nodes of the connected Ray cluster, started by DeepSpeed.

    python -m cluster.students run --name RUN --nodes 2 -- --config FILE [key=value ...]
    python -m cluster.students follow --name RUN      # the log; ends with the run, and its status
    python -m cluster.students status --name RUN [--json]
    python -m cluster.students stop --name RUN

The run's folder is runs/RUN in the folder that CONKD_SHARED names.
"""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Of `run`."""

    name: str
    nodes: int
    min_nodes: int
    slots: int
    wait_s: float
    config: Path
    overrides: tuple[str, ...]


def parse(argv: list[str]) -> Namespace:
    """The command, and its options; what comes behind -- is `student`."""
    own, student = argv, None
    if "--" in argv:
        split = argv.index("--")
        own, student = argv[:split], argv[split + 1 :]
    arguments = parser().parse_args(own)
    if arguments.command != "run" and student is not None:
        raise InputError(f"-- must come with run alone, got it with {arguments.command}.")
    arguments.student = student or []
    return arguments


def parser() -> CommandParser:
    """The parser of all commands."""
    top = CommandParser(prog="python -m cluster.students", description=DESCRIPTION)
    commands = top.add_commands("COMMAND")
    run = commands.add_parser("run", help="start a run, or find the one of this name")
    _add_name(run)
    run.add_argument("--nodes", type=whole(1, MAX_RANKS), default=1, help="student nodes")
    run.add_argument(
        "--min-nodes", type=whole(1, MAX_RANKS), default=1, help="goes on with so few after losses"
    )
    run.add_argument(
        "--slots", type=whole(0, MAX_RANKS), default=0, help="ranks of a node; 0: one for each GPU"
    )
    run.add_argument(
        "--wait", type=number(0, 86_400), default=600.0, help="seconds to wait for student nodes"
    )
    for name, text in (
        ("follow", "print the log until the run ends, and end with its status"),
        ("status", "what the run does"),
        ("stop", "end the ranks and the run; its checkpoints stay"),
    ):
        command = commands.add_parser(name, help=text)
        _add_name(command)
        if name == "status":
            command.add_argument("--json", action="store_true", help="as one JSON object")
    return top


def run_options(arguments: Namespace) -> RunOptions:
    """The options of `run`, with those of the student."""
    student = CommandParser(prog="python -m cluster.students run ... --")
    student.add_argument("--config", type=Path, required=True, help="YAML file of a RunConfig")
    student.add_argument("overrides", nargs="*", metavar="key=value")
    given = student.parse_intermixed_args(arguments.student)
    return RunOptions(
        name=arguments.name,
        nodes=arguments.nodes,
        min_nodes=arguments.min_nodes,
        slots=arguments.slots,
        wait_s=arguments.wait,
        config=given.config,
        overrides=tuple(given.overrides),
    )


def _add_name(command: CommandParser) -> None:
    command.add_argument("--name", type=_name, required=True, help="of the run")


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ArgumentTypeError(f"must be {NAME_RULE}, got {text!r}")
    return text
