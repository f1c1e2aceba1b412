"""How many teachers feed so many students, and how fast they train: before anything is started.

    python -m cluster.capacity --students 32 --student DialoGPT-large [--json] [--draw FILE]

A model: forward, cut and wire of the teachers, step and exchange of the students. GPUs count as
their data sheets say. docs/results/scaling.md has how near it is to what was measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.capacity.devices import NODES
from trainer.common.cli import run_main
from trainer.common.command import CommandParser, number, whole
from trainer.common.outputs import check_output

# Beyond any cluster: a plan of more would be a slip of the keyboard.
MAX_HOSTS = 1 << 16
MAX_BATCH = 1 << 20


def main(argv: list[str]) -> None:
    """Parse, then print the answer, and draw it if that is asked for."""
    arguments = parse(argv)
    # Not above: a mistake in the command line must not wait for the libraries that draw.
    from cluster.capacity.answer import jobs_of, show

    jobs = jobs_of(arguments)
    if arguments.draw is not None:
        check_output("--draw", arguments.draw.parent)
    show(jobs, students=arguments.students, teachers=arguments.teachers, as_json=arguments.json)
    if arguments.draw is not None:
        from cluster.capacity.plot import draw_capacity

        draw_capacity(jobs, arguments.draw)


def parse(argv: list[str]) -> argparse.Namespace:
    """The student, its hosts, and the teachers."""
    parser = CommandParser(
        prog="python -m cluster.capacity",
        description="How many teachers feed so many students, and how fast they train.",
    )
    add = parser.add_argument
    add("--students", type=whole(1, MAX_HOSTS), required=True, help="hosts of the run")
    add("--student", required=True, help="DialoGPT-small, -medium, -large, or redial-mini")
    add("--teacher", default="DialoGPT-medium", help="the dialogue teacher, by such a name")
    add(
        "--teachers",
        type=whole(1, MAX_HOSTS),
        metavar="COUNT",
        help="replicas of it (default: the fewest for which no student waits)",
    )
    add(
        "--gpu",
        action="append",
        choices=tuple(NODES),
        help="of the students' hosts; may be given again (default: A100 and H100)",
    )
    add("--teacher-gpu", default="A10G", choices=tuple(NODES), help="one for each replica")
    add("--batch", type=whole(1, MAX_BATCH), default=32, help="responses of a rank at a step")
    add("--zero", type=int, default=2, choices=(0, 1, 2, 3), help="ZeRO stage")
    add(
        "--link-gbit",
        type=number(0.001, 1e5),
        metavar="GBIT",
        help="10^9 bits a second between students' hosts (default: the machine's)",
    )
    add("--draw", type=Path, metavar="FILE", help="also a PNG, up to 256 hosts")
    add("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_main(main)
