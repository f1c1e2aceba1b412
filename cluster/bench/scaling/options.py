"""The options of the benchmark `scaling`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from cluster.bench.scaling.grid import DEFAULT_COUNTS, Grid
from trainer.common.command import whole
from trainer.common.errors import InputError, MissingError

NAME = "scaling"
# Hosts in namespaces: each has some processes of its own.
MAX_COUNT = 16
# Machines that are rented.
MAX_CLUSTER_COUNT = 256
DEFAULT_CONFIG = Path("trainer/configs/dialogpt.yaml")
OPTIONS = ("students", "teachers", "address", "config")


@dataclass(frozen=True, kw_only=True)
class ScalingOptions:
    """What is measured, and where."""

    grid: Grid
    address: str | None = None
    """Of a Ray cluster on which to measure; None: hosts in namespaces of this machine."""
    config: Path = DEFAULT_CONFIG
    """Recipe of the students on a cluster."""


def add_scaling_options(parser: argparse.ArgumentParser) -> None:
    """Add them to the parser of all benchmarks."""
    add = parser.add_argument
    add("--students", type=counts, metavar="COUNTS", help="scaling: hosts (default: 1,2,4)")
    add("--teachers", type=counts, metavar="COUNTS", help="scaling: replicas (default: 1,2,4)")
    add("--address", metavar="ADDRESS", help="scaling: a Ray cluster, from its head: auto")
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"scaling with --address: recipe of the students (default: {DEFAULT_CONFIG})",
    )


def counts(text: str) -> tuple[int, ...]:
    """The type of an option that takes numbers of hosts: 1,2,4."""
    try:
        return tuple(sorted({whole(1, MAX_CLUSTER_COUNT)(part) for part in text.split(",")}))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"must be whole numbers in [1, {MAX_CLUSTER_COUNT}] with commas between, got {text}"
        ) from error


def scaling_options(arguments: argparse.Namespace) -> ScalingOptions:
    """The options of a command line, checked.

    Raises:
        InputError: if one is given for another benchmark, or asks for what namespaces cannot hold.
        MissingError: if there is no such recipe.
    """
    given = [name for name in OPTIONS if getattr(arguments, name) is not None]
    if given and arguments.name != NAME:
        raise InputError(
            f"--{given[0]} must be given for {NAME} alone, got {arguments.name}. Leave it out."
        )
    students, teachers = (
        (arguments.students or DEFAULT_COUNTS),
        (arguments.teachers or DEFAULT_COUNTS),
    )
    if arguments.address is None:
        _check_alone(arguments, students, teachers)
    config = arguments.config or DEFAULT_CONFIG
    if arguments.address is not None and not config.is_file():
        raise MissingError(f"--config must be a file, got {config}. Name a recipe.")
    return ScalingOptions(
        grid=Grid(students=students, teachers=teachers), address=arguments.address, config=config
    )


def _check_alone(
    arguments: argparse.Namespace, students: tuple[int, ...], teachers: tuple[int, ...]
) -> None:
    """What holds without a cluster."""
    if arguments.config is not None:
        raise InputError(
            f"--config must be given beside --address alone, got {arguments.config}. Leave it out."
        )
    for name, found in (("students", students), ("teachers", teachers)):
        if found[-1] > MAX_COUNT:
            raise InputError(
                f"--{name} must be at most {MAX_COUNT} without --address, got {found[-1]}."
            )
