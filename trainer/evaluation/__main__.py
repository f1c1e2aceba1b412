"""Score one trained model on one split of prepared data.

    python -m trainer.evaluation --checkpoint DIR --data DIR [--split test] [--json]
                                 [--classifier DIR|oracle] [--limit N] [--batch-size N]

DIR is a run directory, an exported student or a dialogue teacher. Three models side by side, with
plots: python -m trainer.evaluation.report
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from trainer.common.cli import run_main
from trainer.common.tables import fitted, terminal_width
from trainer.data.prepared import load_prepared
from trainer.evaluation.evaluate import (
    EvaluationResult,
    add_evaluate_arguments,
    evaluate_config,
    evaluate_model,
)
from trainer.evaluation.report_text import score_rows


def main(argv: list[str]) -> None:
    """Parse, evaluate, print a table or one JSON object on stdout."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.evaluation",
        description="Score one trained model on one split of prepared data.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="run or model folder")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    add_evaluate_arguments(parser)
    arguments = parser.parse_args(argv)
    # Hugging Face's bar for the reading of weights is noise in logs.
    disable_progress_bar()
    data = load_prepared(arguments.data)
    result = evaluate_model(arguments.checkpoint, data, evaluate_config(arguments))
    if arguments.json:
        sys.stdout.write(json.dumps(result.to_dict()) + "\n")
    else:
        print_table(result)


def print_table(result: EvaluationResult) -> None:
    """The headline scores for people."""
    title = f"{result.checkpoint} on {result.split}, {len(result.responses)} responses"
    rows = [(name, values[0]) for name, values in score_rows([result.to_dict()])]
    columns = ("metric", "value")
    table = fitted(rows, columns, right=("value",), title=title, width=terminal_width())
    sys.stdout.write(f"{table}\n")


if __name__ == "__main__":
    run_main(main)
