"""Targets made once, checked, and shipped: what lies in a folder of `teachers.cache`.

    python -m trainer.targets build --config FILE --output DIR [--split SPLIT ...] [key=value ...]
    python -m trainer.targets verify DIR
    python -m trainer.targets stats DIR [--json]
    python -m trainer.targets export DIR FILE
    python -m trainer.targets import FILE DIR [--max-bytes N]

`build` asks running teachers about whole splits, as a run of that config would; `export` writes one
portable file (LMDB's own files depend on the machine).
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path

from trainer.common.cli import run_main
from trainer.common.command import CommandParser, whole
from trainer.common.outputs import check_output
from trainer.common.progress import progress_bar
from trainer.config.run import RunConfig
from trainer.config.teachers import MAX_CACHE_BYTES, TeachersConfig
from trainer.config.yaml_file import load_config
from trainer.data.dialogue import SPLITS


def main(argv: list[str]) -> None:
    """Parse, then run one command."""
    arguments = parse(argv)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    # Not above: a mistake in the command line must not wait for torch.
    from trainer.targets.commands import COMMANDS

    # Transient, so that what is left to read is the outcome.
    with progress_bar(transient=True) as progress:
        COMMANDS[arguments.command](arguments, progress)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command and its options; of `build` also the `config` that it runs with."""
    arguments = _build_parser().parse_args(argv)
    if arguments.command == "build":
        config = load_config(RunConfig, arguments.config, arguments.overrides)
        teachers = dataclasses.replace(config.teachers, cache=str(arguments.output))
        arguments.config = dataclasses.replace(config, teachers=teachers)
        check_output("--output", arguments.output)
    elif arguments.command == "export":
        check_output("FILE", arguments.file.parent)
    return arguments


def _build_parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m trainer.targets",
        description="Targets made once, checked, and shipped: folders of teachers.cache.",
    )
    commands = parser.add_commands("build|verify|stats|export|import")
    _add_build_options(commands.add_parser("build", help="ask running teachers about whole splits"))
    check = commands.add_parser("verify", help="decode everything; exits with 2 if any is broken")
    stats = commands.add_parser("stats", help="what there is, per teacher and cut")
    stats.add_argument("--json", action="store_true", help="one JSON object on stdout")
    export = commands.add_parser("export", help="one portable file with a checksum")
    add = commands.add_parser("import", help="add an exported file's targets to a folder")
    add.add_argument("file", type=Path, metavar="FILE")
    for command in (check, stats, export, add):
        command.add_argument("folder", type=Path, metavar="DIR")
    export.add_argument("file", type=Path, metavar="FILE")
    add.add_argument(
        "--max-bytes",
        type=whole(1, MAX_CACHE_BYTES),
        default=TeachersConfig.cache_bytes,
        metavar="N",
        help="size of DIR at which no more is taken, as teachers.cache_bytes",
    )
    return parser


def _add_build_options(make: argparse.ArgumentParser) -> None:
    make.add_argument("--config", type=Path, required=True, help="YAML file of a RunConfig")
    make.add_argument("--output", type=Path, required=True, help="folder of the cache")
    make.add_argument(
        "--split", action="append", choices=SPLITS, help="may be repeated (default train)"
    )
    make.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. distill.top_k=128")


if __name__ == "__main__":
    run_main(main)
