"""A cluster from a laptop: python -m cluster COMMAND ..., with --help for each.

    setup FILE | up FILE | down FILE                  # the machines
    push DIR... | pull RUN DIR                        # what is on the shared folder
    teachers up|scale|roll|status|down                # the fleet
    train | logs | status | stop                      # a run
    bench | capacity                                  # measure, and plan

Nothing is kept on the laptop: FILE and its credentials are enough on another one, too.
"""

from __future__ import annotations

import sys

from cluster.commands import (
    down,
    logs,
    pull,
    push,
    setup,
    status,
    stop,
    teachers,
    train,
    up,
    wraps,
)
from trainer.common.cli import run_main
from trainer.common.command import CommandParser

COMMANDS = (setup, up, push, teachers, train, logs, status, stop, pull, wraps, down)
"""In the order of --help; each adds its parsers, whose default `run` carries the command out."""


def main(argv: list[str]) -> None:
    """Parse, then carry out one command; the status is that of what ran on the cluster."""
    if argv[:1] == [wraps.CAPACITY]:
        # All its options are those of a program of its own, which argparse does not pass on.
        sys.exit(wraps.capacity(argv[1:]))
    parser = CommandParser(prog="python -m cluster", description=__doc__)
    commands = parser.add_commands("COMMAND")
    for command in COMMANDS:
        command.add(commands)
    arguments = parser.parse_args(argv)
    sys.exit(arguments.run(arguments))


if __name__ == "__main__":
    run_main(main)
