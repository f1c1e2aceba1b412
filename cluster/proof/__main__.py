"""Teachers on machines that come and go, students whose weights are those of a calm run.

    python -m cluster.proof [--short] [--events NAME,...] [--output DIR]

Hosts are namespaces of this machine: needs Linux and root. OUTPUT gets proof.json, proof.png and
the logs of all; the exit status is 1 if any weights differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import time
from pathlib import Path

from trainer.common.cli import run_main
from trainer.common.command import CommandParser
from trainer.common.errors import InputError

EXIT_DIFFERENT = 1
DEFAULT = Path("runs/proof")
MARK = "proof.json"
NAMES = ("replica", "link", "directory", "power", "none", "upgrade", "certificates", "head")


def main(argv: list[str]) -> None:
    """Parse, make data and teachers, prove, and write what came of it."""
    arguments = parse(argv)
    # Not above: a mistake in the command line must not wait for torch and Ray.
    from cluster.netns.tools import check_machine
    from cluster.proof.events import events_of
    from cluster.proof.materials import make_materials
    from cluster.proof.picture import draw_proof
    from cluster.proof.prove import FULL, SHORT, prove
    from trainer.common.atomic import write_json

    check_machine()
    output: Path = arguments.output.resolve()
    new_folder(output)
    start_s = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - start_s:4.0f} s] {text}\n")
        sys.stdout.flush()

    say("data and teachers are made")
    make_materials(output / "shared", sys.stdout)
    plan = SHORT if arguments.short else FULL
    if arguments.events:
        plan = dataclasses.replace(plan, events=events_of(arguments.events))
    proof = prove(plan, output, say=say)
    write_json(output / MARK, proof.to_json())
    draw_proof(proof, output / "proof.png")
    for line in proof.lines():
        sys.stdout.write(f"{line}\n")
    if not proof.is_proved:
        sys.exit(EXIT_DIFFERENT)


def _event_names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(NAMES):
        raise argparse.ArgumentTypeError(f"must be some of {', '.join(NAMES)}, got {text}")
    return names


def new_folder(output: Path) -> None:
    """Empty the folder of an earlier proof; InputError for any other that is not empty."""
    if output.exists() and any(output.iterdir()) and not (output / MARK).is_file():
        raise InputError(
            f"--output must be a new folder or an earlier proof's, got {output}. Name another one."
        )
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    # Also if it ends early.
    (output / MARK).write_text("{}\n")


def parse(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = CommandParser(prog="python -m cluster.proof", description=__doc__)
    parser.add_argument("--short", action="store_true", help="three events in two minutes")
    parser.add_argument(
        "--events",
        type=_event_names,
        default=(),
        metavar="NAME[,...]",
        help=f"these alone, of {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--output", type=Path, default=DEFAULT, help="folder of all that is made, emptied first"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_main(main)
