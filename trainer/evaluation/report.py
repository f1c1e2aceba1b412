"""The report of a run, beside the students it is compared with: report.json, report.md.

    python -m trainer.evaluation.report --run DIR --data DIR --undistilled DIR
        --dialogue-teacher DIR [--plain DIR] [--teachers FILE] [--classifier DIR] [--oracle]
        [--split test] [--limit N]

Writes report.json, report.md and plots/*.png into the run directory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from trainer.common.cli import run_main
from trainer.common.command import CommandParser
from trainer.common.outputs import check_output
from trainer.evaluation.options import add_evaluate_arguments


def main(argv: list[str]) -> None:
    """Parse, report, say where."""
    arguments = parse(argv)
    # Not above: a mistake in the command line must not wait for torch.
    from transformers.utils.logging import disable_progress_bar

    from trainer.evaluation.evaluate import evaluate_config
    from trainer.evaluation.student_report import ReportConfig, write_report

    # Hugging Face's bar for the reading of weights is noise in logs.
    disable_progress_bar()
    config = ReportConfig(
        run=arguments.run,
        data=arguments.data,
        undistilled=arguments.undistilled,
        dialogue_teacher=arguments.dialogue_teacher,
        plain=arguments.plain,
        teachers=arguments.teachers,
        oracle=arguments.oracle,
        evaluate=evaluate_config(arguments),
    )
    write_report(config)
    Console().print(f"{config.run / 'report.md'}", highlight=False, soft_wrap=True)


def parse(argv: list[str]) -> argparse.Namespace:
    """The runs and models of the report, and how they are scored."""
    parser = CommandParser(
        prog="python -m trainer.evaluation.report",
        description="Score student, students without teachers and dialogue teacher side by side.",
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory of the student")
    parser.add_argument("--undistilled", type=Path, required=True, help="run without teachers")
    parser.add_argument("--dialogue-teacher", type=Path, required=True, help="frozen teacher")
    parser.add_argument(
        "--plain", type=Path, help="run without teachers and with random film rows (item_vectors)"
    )
    parser.add_argument(
        "--teachers", type=Path, help="teachers.json of trainer.evaluation.teachers"
    )
    parser.add_argument("--oracle", action="store_true", help="also with the gold action token")
    add_evaluate_arguments(parser)
    arguments = parser.parse_args(argv)
    check_output("--run", arguments.run)
    return arguments


if __name__ == "__main__":
    run_main(main)
