"""Score one trained model on one split of prepared data.

    python -m trainer.evaluation --checkpoint DIR --data DIR [--split test] [--json]
                                 [--classifier DIR|oracle|student] [--limit N] [--batch-size N]

DIR is a run directory, an exported student or a dialogue teacher. Three models side by side, with
plots: python -m trainer.evaluation.report
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.common.cli import run_main
from trainer.common.command import CommandParser
from trainer.evaluation.options import add_evaluate_arguments


def main(argv: list[str]) -> None:
    """Parse, evaluate, print a table or one JSON object on stdout."""
    arguments = parse(argv)
    # Not above: a mistake in the command line must not wait for torch.
    from trainer.evaluation.student_scores import print_scores

    print_scores(arguments)


def parse(argv: list[str]) -> argparse.Namespace:
    """The model, the data, and how it is scored."""
    parser = CommandParser(
        prog="python -m trainer.evaluation",
        description="Score one trained model on one split of prepared data.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="run or model folder")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    add_evaluate_arguments(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_main(main)
