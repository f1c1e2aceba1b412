"""Work out the memory plan that a command line asks for, and print it."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console

from trainer.plan.memory import Setting
from trainer.plan.shape import StudentSize, student_config, student_size
from trainer.plan.stages import DTYPES, lines
from trainer.plan.text import to_bars, to_json, to_table


def print_plan(arguments: argparse.Namespace) -> None:
    """Print the table, or with --json one object."""
    setting, size = _setting(arguments), _size(arguments)
    found = lines(size, setting, micro_batch=arguments.micro_batch, limit=arguments.gpu_memory)
    if arguments.json:
        sys.stdout.write(json.dumps(to_json(arguments.student, size, arguments, found)) + "\n")
        return
    console = Console()
    console.print(to_table(arguments, size, found))
    console.print(to_bars(found, arguments.gpu_memory))


def _setting(arguments: argparse.Namespace) -> Setting:
    return Setting(
        ranks=arguments.gpus,
        precision=arguments.precision,
        chunk_size=arguments.chunk_size,
        response_length=arguments.response,
        accumulation=arguments.accumulation,
        checkpointing=arguments.activation_checkpointing,
        on_cpu=arguments.device == "cpu",
    )


def _size(arguments: argparse.Namespace) -> StudentSize:
    return student_size(
        student_config(arguments.student, arguments.vocabulary),
        length=arguments.length,
        dtype=DTYPES[arguments.precision],
        checkpointing=arguments.activation_checkpointing,
        flash_attention=arguments.device == "gpu",
    )
