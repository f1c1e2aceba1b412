"""Students of a cluster: python -m cluster.students run, follow, status, stop (options.py)."""

from __future__ import annotations

import sys

from cluster.students.options import parse, run_options
from trainer.common.cli import run_main


def main(argv: list[str]) -> None:
    """Parse, then run one command; raises UserError for what its user can put right."""
    arguments = parse(argv)
    if arguments.command == "run":
        options = run_options(arguments)
        # Not above: a mistake in the command line must not wait for Ray.
        from cluster.students.starting import start_run

        sys.stdout.write(f"{start_run(options)}\n")
    elif arguments.command == "follow":
        from cluster.students.following import follow

        # The run's own status, which is no error of this command.
        sys.exit(follow(arguments.name, sys.stdout))
    elif arguments.command == "status":
        from cluster.students.starting import describe

        sys.stdout.write(f"{describe(arguments.name, as_json=arguments.json)}\n")
    else:
        from cluster.students.starting import stop_run

        sys.stdout.write(f"{stop_run(arguments.name)}\n")


if __name__ == "__main__":
    run_main(main)
