"""The options that every evaluating command shares."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal, get_args

from trainer.common.command import whole
from trainer.data.dialogue import SPLITS

Method = Literal["greedy", "nucleus"]
METHODS: tuple[Method, ...] = get_args(Method)
"""How the next token of a response is chosen."""
BATCH_SIZE = 64
"""Prompts of a forward; changes speed, and float rounding at most."""
MAX_BATCH_SIZE = 1 << 16


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --data, --split, --classifier, --limit and --batch-size."""
    parser.add_argument("--data", type=Path, required=True, help="prepared folder")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which part of the data")
    parser.add_argument(
        "--classifier",
        help="folder of the turn classifier, oracle, or student; default: student.json's",
    )
    parser.add_argument("--limit", type=whole(1), help="only the first so many dialogues")
    parser.add_argument(
        "--batch-size",
        type=whole(1, MAX_BATCH_SIZE),
        default=BATCH_SIZE,
        help="prompts per forward",
    )
