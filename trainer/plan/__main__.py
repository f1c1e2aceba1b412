"""What fits: the memory of a student on each GPU, by ZeRO stage, before anything is started.

    python -m trainer.plan --student microsoft/DialoGPT-large --gpus 4 --gpu-memory 24GiB [--json]

Nothing is allocated and no GPU is needed. docs/training.md says how it counts and how near it is.
"""

from __future__ import annotations

import argparse
import re

from trainer.common.cli import run_main
from trainer.common.command import CommandParser, whole
from trainer.common.errors import InputError

# 50,257 tokens of DialoGPT, ReDial's 6,924 films, [REC], [GEN] and <pad>.
VOCABULARY = 57_184
UNITS = {"GiB": 1 << 30, "GB": 10**9, "MiB": 1 << 20, "MB": 10**6}
PRECISIONS = ("float32", "bf16", "fp16")
# Beyond what any machine has: a plan of more would be a slip of the keyboard.
MAX_GPUS = 1 << 16
MAX_SIZE = 1 << 24
MAX_BYTES = 1 << 50


def main(argv: list[str]) -> None:
    """Parse, then print the plan."""
    arguments = parse(argv)
    # Not above: a mistake in the command line must not wait for torch.
    from trainer.plan.answer import print_plan

    print_plan(arguments)


def memory_bytes(text: str) -> int:
    """24GiB, 80gb, 512 MiB -> bytes; refused without a unit, which could be any."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([a-z]+)", text.lower())
    factor = {name.lower(): it for name, it in UNITS.items()}.get(match[2], 0) if match else 0
    if match is None or not 1 <= float(match[1]) * factor <= MAX_BYTES:
        raise argparse.ArgumentTypeError(
            f"must be a number above 0 and {', '.join(UNITS)}, for example 24GiB, got {text!r}"
        )
    return int(float(match[1]) * factor)


def parse(argv: list[str]) -> argparse.Namespace:
    """The student, the machines and the batch; `gpu_memory` in bytes."""
    parser = CommandParser(prog="python -m trainer.plan", description="What fits, by ZeRO stage.")
    add = parser.add_argument
    size = whole(1, MAX_SIZE)
    add("--student", required=True, help="small, medium, large, DialoGPT's name, or a folder")
    add("--gpus", type=whole(1, MAX_GPUS), required=True, help="ranks of the run, all nodes")
    add(
        "--gpu-memory",
        type=memory_bytes,
        required=True,
        metavar="SIZE",
        help="of each, e.g. 24GiB",
    )
    add("--micro-batch", type=size, default=4, help="examples of one forward")
    add("--length", type=size, default=256, help="tokens of an example")
    add("--response", type=size, default=32, help="of them in the response")
    add("--precision", choices=PRECISIONS, default="float32", help="of weights and activations")
    add("--chunk-size", type=size, default=256, help="train.loss_chunk_size")
    add("--vocabulary", type=size, default=VOCABULARY, help="tokens with items")
    add(
        "--activation-checkpointing",
        action="store_true",
        help="student.activation_checkpointing",
    )
    add("--accumulation", action="store_true", help="several forwards per step")
    add("--device", choices=("gpu", "cpu"), default="gpu", help="where the student trains")
    add("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args(argv)
    if arguments.response > arguments.length:
        raise InputError(
            f"--response must be at most --length, {arguments.length}, got {arguments.response}."
        )
    return arguments


if __name__ == "__main__":
    run_main(main)
