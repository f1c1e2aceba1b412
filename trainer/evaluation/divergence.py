"""How far a student is from the dense dialogue teacher on text that was kept back.

    python -m trainer.evaluation.divergence --checkpoint DIR --teacher DIR --data DIR
        [--split valid] [--limit N] [--output FILE]

Both read the gold responses of a split; nothing is cut from either's distribution. DIR of
--checkpoint is a run directory or an exported student, that of --teacher a dialogue teacher.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.common.cli import run_main
from trainer.common.command import CommandParser, whole
from trainer.common.outputs import check_output
from trainer.data.dialogue import SPLITS


def main(argv: list[str]) -> None:
    """Parse, compare, print a table; FILE has scores and sums as JSON."""
    arguments = parse(argv)
    # Not above: a mistake in the command line must not wait for torch.
    from trainer.evaluation.dense_divergence import print_divergence

    print_divergence(arguments)


def parse(argv: list[str]) -> argparse.Namespace:
    """The student, its teacher and the text."""
    parser = CommandParser(
        prog="python -m trainer.evaluation.divergence",
        description="KL of a student to the dense dialogue teacher, on gold responses.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="run or model folder")
    parser.add_argument("--teacher", type=Path, required=True, help="frozen dialogue teacher")
    parser.add_argument("--data", type=Path, required=True, help="prepared folder")
    parser.add_argument("--split", choices=SPLITS, default="valid", help="which part of the data")
    parser.add_argument("--limit", type=whole(1), help="only the first so many responses")
    parser.add_argument("--output", type=Path, help="file for scores and sums, JSON")
    arguments = parser.parse_args(argv)
    if arguments.output is not None:
        check_output("the folder of --output", arguments.output.parent)
    return arguments


if __name__ == "__main__":
    run_main(main)
