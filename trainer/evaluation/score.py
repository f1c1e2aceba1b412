"""Score what systems said, ours or a stranger's, side by side.

    python -m trainer.evaluation.score [FILE ...] --data DIR [--split test]
        [--baselines copy,popularity,random] [--json]

FILE is one JSON object a line, one for each message of a recommender; docs/evaluation.md has the
keys. FILE.json beside it may say what wrote it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trainer.common.cli import run_main
from trainer.common.command import CommandParser
from trainer.common.errors import InputError
from trainer.common.tables import terminal_width
from trainer.data.dialogue import SPLITS
from trainer.scoring.names import BASELINES


def main(argv: list[str]) -> None:
    """Parse, score, print tables or one JSON object on stdout."""
    arguments = parse(argv)
    # Not above: a mistake in the command line must not wait for the tokenizers of the data.
    from trainer.data.prepared import load_prepared
    from trainer.scoring.scores_text import comparison_text
    from trainer.scoring.systems import compare_systems

    comparison = compare_systems(
        arguments.files, arguments.baselines, load_prepared(arguments.data), arguments.split
    )
    if arguments.json:
        text = json.dumps(comparison.to_dict(), allow_nan=False)
    else:
        text = comparison_text(comparison, terminal_width())
    sys.stdout.write(f"{text}\n")


def parse(argv: list[str]) -> argparse.Namespace:
    """The files or baselines, at least one, and the data that they are scored with."""
    parser = CommandParser(
        prog="python -m trainer.evaluation.score",
        description="Score what systems said, side by side.",
    )
    parser.add_argument("files", metavar="FILE", type=Path, nargs="*", help="a system's records")
    parser.add_argument("--data", type=Path, required=True, help="prepared folder")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which part of the data")
    parser.add_argument(
        "--baselines", type=_baselines, default=(), help="some of copy,popularity,random"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args(argv)
    if not (arguments.files or arguments.baselines):
        raise InputError("a file of records must be given, got none. Name one, or --baselines.")
    return arguments


def _baselines(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    names = tuple(text.split(","))
    if not set(names) <= set(BASELINES) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"must be some of {','.join(BASELINES)}, got {text}")
    return names


if __name__ == "__main__":
    run_main(main)
