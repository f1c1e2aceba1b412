"""Benchmarks: measure, print a table or JSON, and keep the result in bench/results/NAME.json.

python -m cluster.bench NAME|all [--data DIR] [--json]
python -m cluster.bench scaling [--students 1,2,4] [--teachers 1,2,4] [--data DIR] [--json]
python -m cluster.bench scaling --address auto [--config FILE] ...     # on the head of a cluster

`teachers` fits the two that the others measure, once; `all` begins with it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from cluster.bench.result import BenchResult
from cluster.bench.scaling.options import ScalingOptions, add_scaling_options, scaling_options
from cluster.sources import DEFAULT_SOURCE, checked_source, default_source
from trainer.common.cli import run_main
from trainer.common.command import CommandParser

ALL = "all"
EXIT_FAILED = 1
"""A part of a benchmark came to no result; all others are in its JSON."""
NAMES = ("teachers", "loss", "step", "memory", "wire", "service", "chaos", "help", "scaling")


def main(argv: list[str]) -> None:
    """Run the named benchmark, or all of them; the status is 1 if a part of one failed."""
    arguments = parse(argv)
    options = scaling_options(arguments)
    # A cluster has dialogues of its own.
    source = None if options.address else arguments.data or default_source()
    # Not above: a mistake in the command line must not wait for torch.
    from cluster.bench.shown import show_result

    # DeepSpeed logs for ever to what is stdout while it is imported: stdout is for the answer.
    with contextlib.redirect_stdout(sys.stderr):
        by_name = benchmarks(options)
    failures: list[str] = []
    for name in NAMES if arguments.name == ALL else (arguments.name,):
        result = by_name[name](source)
        show_result(name, source, result, as_json=arguments.json)
        failures += [f"{name}: {failure}" for failure in result.failures]
    if failures:
        sys.stderr.writelines(f"failed: {failure}\n" for failure in failures)
        sys.exit(EXIT_FAILED)


def benchmarks(
    options: ScalingOptions,
) -> dict[str, Callable[[Path | None], BenchResult]]:
    """All benchmarks by name; imports all that they measure."""
    from cluster.bench.chaos.bench import bench_chaos
    from cluster.bench.help.bench import bench_help
    from cluster.bench.loss.bench import bench_loss
    from cluster.bench.memory.bench import bench_memory
    from cluster.bench.scaling.bench import bench_scaling
    from cluster.bench.service.bench import bench_service
    from cluster.bench.step.bench import bench_step
    from cluster.bench.teachers import bench_teachers
    from cluster.bench.wire.bench import bench_wire

    return {
        "teachers": bench_teachers,
        "loss": bench_loss,
        "step": bench_step,
        "memory": bench_memory,
        "wire": bench_wire,
        "service": bench_service,
        "chaos": bench_chaos,
        "help": bench_help,
        "scaling": lambda source: bench_scaling(source, options),
    }


def parse(argv: list[str]) -> argparse.Namespace:
    """The name of a benchmark and its data."""
    parser = CommandParser(
        prog="python -m cluster.bench",
        description="Measure; results are kept in bench/results/NAME.json.",
    )
    parser.add_argument(
        "name", metavar="NAME", choices=(*NAMES, ALL), help=f"one of {', '.join(NAMES)}, or {ALL}"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help=f"ReDial's dialogues, as make demo takes them (default: {DEFAULT_SOURCE}, or the "
        "synthetic corpus where there is no such folder)",
    )
    add_scaling_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per benchmark")
    arguments = parser.parse_args(argv)
    checked_source(arguments.data)
    return arguments


if __name__ == "__main__":
    run_main(main)
