"""The scores of one model, printed."""

from __future__ import annotations

import argparse
import json
import sys

from transformers.utils.logging import disable_progress_bar

from trainer.common.tables import fitted, terminal_width
from trainer.data.prepared import load_prepared
from trainer.evaluation.evaluate import EvaluationResult, evaluate_config, evaluate_model
from trainer.evaluation.report_text import score_rows


def print_scores(arguments: argparse.Namespace) -> None:
    """Evaluate, then print a table, or with --json one object."""
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
    title = f"{result.checkpoint} on {result.split}, {len(result.records)} responses"
    rows = [(name, values[0]) for name, values in score_rows([result.to_dict()])]
    columns = ("metric", "value")
    table = fitted(rows, columns, right=("value",), title=title, width=terminal_width())
    sys.stdout.write(f"{table}\n")
