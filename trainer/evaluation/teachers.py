"""Quality of the frozen teachers, before distillation: teachers.md and teachers.json.

    python -m trainer.evaluation.teachers --data DIR --output DIR [--split test]
        [--recommendation DIR ...] [--dialogue DIR ...] [--classifier DIR ...]

Several folders of a kind are taken for seeds of one recipe: scores are means with their range.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from trainer.common.cli import run_main
from trainer.common.command import CommandParser
from trainer.common.errors import InputError
from trainer.common.outputs import check_output
from trainer.data.dialogue import SPLITS


def main(argv: list[str]) -> None:
    """Parse, report, say where."""
    arguments = parse(argv)
    # Not above: a mistake in the command line must not wait for torch.
    from transformers.utils.logging import disable_progress_bar

    from trainer.data.prepared import load_prepared
    from trainer.evaluation.teacher_quality import report_teachers

    # Hugging Face's bar for the reading of weights is noise in logs.
    disable_progress_bar()
    report_teachers(
        load_prepared(arguments.data),
        arguments.output,
        split=arguments.split,
        recommendation=arguments.recommendation,
        dialogue=arguments.dialogue,
        classifier=arguments.classifier,
    )
    Console().print(f"{arguments.output / 'teachers.md'}", highlight=False, soft_wrap=True)


def parse(argv: list[str]) -> argparse.Namespace:
    """The frozen models, at least one, the data, and the folder of the report."""
    parser = CommandParser(
        prog="python -m trainer.evaluation.teachers",
        description="Score frozen teachers on one split of prepared data.",
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared folder")
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which part of the data")
    for kind in ("recommendation", "dialogue", "classifier"):
        parser.add_argument(
            f"--{kind}", type=Path, nargs="+", default=[], help=f"frozen {kind} models"
        )
    arguments = parser.parse_args(argv)
    if not (arguments.recommendation or arguments.dialogue or arguments.classifier):
        raise InputError(
            "a frozen model must be named, got none. Give --recommendation, --dialogue or "
            "--classifier."
        )
    check_output("--output", arguments.output)
    return arguments


if __name__ == "__main__":
    run_main(main)
