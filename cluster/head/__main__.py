"""What `python -m cluster` of a laptop runs on the head: python -m cluster.head COMMAND ...

Its commands read their node's environment (CONKD_SHARED) and answer in JSON; users run those of
`python -m cluster`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from cluster.head import incoming, outgoing, watch
from cluster.head.runs import all_runs, newest
from cluster.head.shared import DATA, TEACHERS, shared_folder
from trainer.common.cli import run_main
from trainer.common.command import CommandParser, number, whole

MAX_NODES = 4096
MAX_SLOTS = 64
MAX_HOURS = 8760.0


def main(argv: list[str]) -> None:
    """Parse, then carry out one command."""
    arguments = parse(argv)
    arguments.run(arguments)
    # Before Ray's own end: a driver that hears meanwhile of a lost node may end without Python's.
    sys.stdout.flush()


def parse(argv: list[str]) -> argparse.Namespace:
    """The command and its options."""
    parser = CommandParser(prog="python -m cluster.head", description=__doc__)
    commands = parser.add_commands("COMMAND")
    _add_train(commands)
    teachers = commands.add_parser("teachers", help="python -m teacher_server, filled in")
    teachers.add_argument("argv", nargs=argparse.REMAINDER)
    teachers.set_defaults(run=_teachers)
    for name, run in (("incoming", _incoming), ("placed", _placed)):
        command = commands.add_parser(name, help="of push")
        command.add_argument("room", choices=(DATA, TEACHERS))
        command.add_argument("name")
        command.add_argument("--bytes", type=whole(0), default=0)
        command.set_defaults(run=run)
    outgoing_ = commands.add_parser("outgoing", help="of pull")
    outgoing_.add_argument("name")
    outgoing_.set_defaults(run=_outgoing)
    pulled = commands.add_parser("pulled", help="of pull")
    pulled.add_argument("name")
    pulled.add_argument("fingerprint")
    pulled.set_defaults(run=_pulled)
    commands.add_parser("runs", help="all runs").set_defaults(run=_runs)
    commands.add_parser("newest", help="the run that last changed").set_defaults(run=_newest)
    status = commands.add_parser("status", help="nodes, runs and fleet")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_status)
    watched = commands.add_parser("watch", help="end the cluster later")
    watched.add_argument("--hours", type=number(0.01, MAX_HOURS))
    watched.add_argument("--after")
    watched.set_defaults(run=_watch)
    commands.add_parser("watcher", help="of watch").set_defaults(run=lambda _: watch.wait())
    return parser.parse_args(argv)


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="python -m cluster.students run, filled in")
    train.add_argument("--name", required=True)
    train.add_argument("--nodes", type=whole(1, MAX_NODES), default=1)
    train.add_argument("--min-nodes", type=whole(1, MAX_NODES))
    train.add_argument("--slots", type=whole(1, MAX_SLOTS))
    train.add_argument("overrides", nargs="*", metavar="key=value")
    train.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> None:
    """The config comes on stdin: it is the laptop's, which may differ from what is here."""
    # Not above: a mistake in the command line must not wait for Ray.
    from cluster.head.training import students_command

    _become(students_command(arguments, sys.stdin.read()))


def _teachers(arguments: argparse.Namespace) -> None:
    from cluster.head.fleet import fleet_command

    _become(fleet_command(arguments.argv))


def _incoming(arguments: argparse.Namespace) -> None:
    _answer(incoming.prepare(shared_folder(), arguments.room, arguments.name, arguments.bytes))


def _placed(arguments: argparse.Namespace) -> None:
    sent = json.loads(sys.stdin.read())
    _answer(incoming.place(shared_folder(), arguments.room, arguments.name, sent))


def _outgoing(arguments: argparse.Namespace) -> None:
    _answer(outgoing.offer(shared_folder(), arguments.name))


def _pulled(arguments: argparse.Namespace) -> None:
    _answer(outgoing.taken(shared_folder(), arguments.name, arguments.fingerprint))


def _runs(_: argparse.Namespace) -> None:
    now_s = time.time()
    _answer([it.shown(now_s) for it in all_runs(shared_folder())])


def _newest(_: argparse.Namespace) -> None:
    sys.stdout.write(f"{newest(shared_folder())}\n")


def _status(arguments: argparse.Namespace) -> None:
    from cluster.head.status import as_json, as_text

    if arguments.json:
        _answer(as_json())
    else:
        sys.stdout.write(as_text())


def _watch(arguments: argparse.Namespace) -> None:
    watch.ask(hours=arguments.hours, after=arguments.after)


def _answer(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


def _become(argv: list[str]) -> NoReturn:
    """Go on as another program of this environment, with its output and status."""
    sys.stdout.flush()
    python = str(Path(sys.executable))
    os.execv(python, [python, *argv])


if __name__ == "__main__":
    run_main(main)
