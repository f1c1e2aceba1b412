"""What fits: the memory of a student on each GPU, by ZeRO stage, before anything is started.

    python -m trainer.plan --student microsoft/DialoGPT-large --gpus 4 --gpu-memory 24GiB [--json]

Nothing is allocated and no GPU is needed. docs/training.md says how it counts and how near it is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.common.cli import run_main
from trainer.common.errors import InputError
from trainer.plan.memory import (
    PARTS,
    Setting,
)
from trainer.plan.shape import StudentSize, student_config, student_size
from trainer.plan.stages import DTYPES, Line, lines

# 50,257 tokens of DialoGPT, ReDial's 6,924 films, [REC], [GEN] and <pad>.
VOCABULARY = 57_184
GIB = 1 << 30
UNITS = {"GiB": GIB, "GB": 10**9, "MiB": 1 << 20, "MB": 10**6}
# Beyond what any machine has: a plan of more would be a slip of the keyboard.
LARGEST = {
    **{"gpus": 1 << 16, "micro_batch": 1 << 16, "length": 1 << 20, "response": 1 << 20},
    **{"chunk_size": 1 << 24, "vocabulary": 1 << 24},
}
COLOURS = ("blue", "green", "yellow", "magenta", "cyan", "red", "white", "bright_black")
BAR_WIDTH = 60


def main(argv: list[str]) -> None:
    """Print the table, or with --json one object."""
    arguments = _parse(argv)
    setting, size = _setting(arguments), _size(arguments)
    found = lines(size, setting, micro_batch=arguments.micro_batch, limit=arguments.gpu_memory)
    if arguments.json:
        sys.stdout.write(json.dumps(to_json(arguments.student, size, arguments, found)) + "\n")
        return
    console = Console()
    console.print(_table(arguments, size, found))
    console.print(_bars(found, arguments.gpu_memory))


def to_json(
    student: str, size: StudentSize, arguments: argparse.Namespace, found: list[Line]
) -> dict[str, Any]:
    """The answer as one object; bytes, per device."""
    return {
        "student": student,
        "parameters": size.num_parameters,
        "ranks": arguments.gpus,
        "memory_bytes": arguments.gpu_memory,
        "micro_batch": arguments.micro_batch,
        "length": arguments.length,
        "precision": arguments.precision,
        "stages": [
            {
                "name": line.name,
                "stage": line.plan.stage,
                "moment": line.plan.moment,
                **{f"{part}_bytes": count for part, count in line.plan.parts.items()},
                "total_bytes": line.plan.total,
                "host_bytes": line.plan.host,
                "fits": line.fits,
                "largest_micro_batch": line.largest,
            }
            for line in found
        ],
    }


def memory_bytes(text: str) -> int:
    """24GiB, 80GB, 512MiB -> bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(\w+)", text)
    if match is None or match[2] not in UNITS or float(match[1]) == 0:
        raise InputError(
            f"--gpu-memory must be a number above 0 and {', '.join(UNITS)}, got {text}. "
            "Write for example 24GiB."
        )
    return int(float(match[1]) * UNITS[match[2]])


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


def _table(arguments: argparse.Namespace, size: StudentSize, found: list[Line]) -> Table:
    """A column per stage, a row per part."""
    table = Table(
        title=f"{arguments.student}: {size.num_parameters / 1e6:,.0f} M parameters on "
        f"{arguments.gpus} x {arguments.gpu_memory / GIB:.4g} GiB\n"
        f"{arguments.micro_batch} examples of {arguments.length} tokens at a time, "
        f"{arguments.precision}; GiB per rank"
    )
    table.add_column("ZeRO stage", no_wrap=True)
    for line in found:
        table.add_column(line.name, justify="right", no_wrap=True)
    for part, colour in zip(PARTS, COLOURS, strict=True):
        table.add_row(
            Text(part).append(" █", style=colour),
            *(_gib(line.plan.parts[part]) for line in found),
            end_section=part == PARTS[-1],
        )
    marks = ["green" if line.fits else "red" for line in found]
    totals = [Text(_gib(it.plan.total), style=m) for it, m in zip(found, marks, strict=True)]
    fits = [Text("yes" if it.fits else "no", style=m) for it, m in zip(found, marks, strict=True)]
    table.add_row("total", *totals)
    table.add_row("fits", *fits)
    table.add_row("largest batch", *(str(line.largest or "-") for line in found))
    table.add_row("largest at", *(line.plan.moment for line in found))
    table.add_row("on the host", *(_gib(line.plan.host) for line in found))
    return table


def _bars(found: list[Line], limit: int) -> Text:
    """A bar per stage, its parts end to end in their colours; | is the memory there is."""
    scale = max(limit, *(line.plan.total for line in found))
    bars = Text()
    for line in found:
        cells = Text()
        end = 0
        for part, colour in zip(PARTS, COLOURS, strict=True):
            end += line.plan.parts[part]
            cells.append("█" * (round(end / scale * BAR_WIDTH) - len(cells)), style=colour)
        cells.append(" " * (BAR_WIDTH + 1 - len(cells)))
        at = round(limit / scale * BAR_WIDTH)
        bars.append(f"{line.name:>11}  ").append_text(cells[:at]).append("|", style="bold")
        bars.append_text(cells[at + 1 :]).append("\n")
    return bars


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}" if count else "-"


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.plan", description="What fits, by ZeRO stage."
    )
    parser.add_argument(
        "--student", required=True, help="small, medium, large, DialoGPT's name, or a folder"
    )
    parser.add_argument("--gpus", type=int, required=True, help="ranks of the run, all nodes")
    parser.add_argument("--gpu-memory", required=True, metavar="SIZE", help="of each, e.g. 24GiB")
    parser.add_argument("--micro-batch", type=int, default=4, help="examples of one forward")
    parser.add_argument("--length", type=int, default=256, help="tokens of an example")
    parser.add_argument("--response", type=int, default=32, help="of them in the response")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="float32")
    parser.add_argument("--chunk-size", type=int, default=256, help="train.loss_chunk_size")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="tokens with items")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--accumulation", action="store_true", help="several forwards per step")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    arguments.gpu_memory = memory_bytes(arguments.gpu_memory)
    for key, largest in LARGEST.items():
        value = vars(arguments)[key]
        if not 1 <= value <= largest:
            name = key.replace("_", "-")
            raise InputError(f"--{name} must be in [1, {largest}], got {value}.")
    if arguments.response > arguments.length:
        raise InputError(
            f"--response must be at most --length, {arguments.length}, got {arguments.response}."
        )
    return arguments


if __name__ == "__main__":
    run_main(main)
