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
import contextlib
import dataclasses
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from protos.codec import WireError
from trainer.common.cli import run_main
from trainer.common.errors import InputError, MissingError
from trainer.common.progress import progress_bar
from trainer.config.run import RunConfig
from trainer.config.teachers import MAX_CACHE_BYTES, TeachersConfig
from trainer.config.yaml_file import load_config
from trainer.data.dialogue import SPLITS
from trainer.target_cache.archive import export_file, import_file
from trainer.target_cache.inspect import CacheStats, GroupSummary, inspect_cache
from trainer.target_cache.store import TargetCache
from trainer.targets.build import build


def main(argv: list[str]) -> None:
    """Run one command: a table, a line or JSON on stdout, progress on stderr."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    arguments = _build_parser().parse_args(argv)
    # Transient, so that what is left to read is the outcome.
    with progress_bar(transient=True) as progress:
        arguments.run(arguments, progress)


def _build(arguments: argparse.Namespace, progress: Progress) -> None:
    config = load_config(RunConfig, arguments.config, arguments.overrides)
    teachers = dataclasses.replace(config.teachers, cache=str(arguments.output))
    config = dataclasses.replace(config, teachers=teachers)
    counted = build(config, arguments.split or ["train"], progress)
    _say(
        f"{counted.cache_misses:,} targets asked for and kept in {counted.cache_written_bytes:,} "
        f"bytes, {counted.cache_hits:,} were there: {arguments.output}"
    )


def _export(arguments: argparse.Namespace, progress: Progress) -> None:
    with _open(arguments.folder, must_exist=True) as cache:
        count = export_file(cache, arguments.file, progress)
    _say(f"{count:,} targets: {arguments.file}")


def _import(arguments: argparse.Namespace, progress: Progress) -> None:
    if not arguments.file.is_file():
        raise MissingError(
            f"{arguments.file} must be an exported file, got nothing there. Make one with: "
            "python -m trainer.targets export FOLDER FILE"
        )
    if not 1 <= arguments.max_bytes <= MAX_CACHE_BYTES:
        raise InputError(
            f"--max-bytes must be in [1, {MAX_CACHE_BYTES}], got {arguments.max_bytes}."
        )
    with _open(arguments.folder, max_bytes=arguments.max_bytes) as cache:
        count = import_file(arguments.file, cache, progress)
    _say(f"{count:,} targets: {arguments.folder}")


def _stats(arguments: argparse.Namespace, progress: Progress) -> None:
    with _open(arguments.folder, must_exist=True) as cache:
        found = inspect_cache(cache, progress)
    if arguments.json:
        sys.stdout.write(json.dumps(found.to_dict()) + "\n")
    else:
        _print_stats(found, arguments.folder)


def _verify(arguments: argparse.Namespace, progress: Progress) -> None:
    with _open(arguments.folder, must_exist=True) as cache:
        found = inspect_cache(cache, progress)
    _print_stats(found, arguments.folder)
    if found.broken:
        raise WireError(
            f"all targets in {arguments.folder} must be whole, got {len(found.broken)} broken "
            "ones. A run asks for them anew; or remove the folder."
        )


@contextlib.contextmanager
def _open(
    folder: Path, *, max_bytes: int = TeachersConfig.cache_bytes, must_exist: bool = False
) -> Iterator[TargetCache]:
    cache = TargetCache(folder, max_bytes=max_bytes, must_exist=must_exist)
    try:
        yield cache
    finally:
        cache.close()


def _say(line: str) -> None:
    Console().print(line, highlight=False, soft_wrap=True)


def _print_stats(found: CacheStats, folder: Path) -> None:
    table = Table(title=str(folder))
    for name in ("kind", "weights"):
        table.add_column(name)
    for name in ("temperature", "cut", "targets", "rows", "bytes", "bytes/row", "kept mass"):
        table.add_column(name, justify="right")
    for group in found.groups:
        table.add_row(*_cells(group))
    Console().print(table)
    for line in found.broken:
        _say(f"broken: {line}")
    _say(
        f"{found.num_entries:,} targets, {len(found.broken):,} broken; {found.disk_bytes:,} bytes "
        "on disk"
    )


def _cells(group: GroupSummary) -> list[str]:
    per_row, kept = group.bytes_per_row, group.mean_kept_mass
    return [
        group.kind,
        group.weights_digest[:12],
        f"{group.temperature:g}",
        group.cut,
        f"{group.num_entries:,}",
        f"{group.num_rows:,}",
        f"{group.num_bytes:,}",
        "-" if per_row is None else f"{per_row:.1f}",
        "-" if kept is None else f"{kept:.3f}",
    ]


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.targets", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="build|verify|stats|export|import")
    make = commands.add_parser("build", help="ask running teachers about whole splits")
    make.set_defaults(run=_build)
    make.add_argument("--config", type=Path, required=True, help="YAML file of a RunConfig")
    make.add_argument("--output", type=Path, required=True, help="folder of the cache")
    make.add_argument(
        "--split", action="append", choices=SPLITS, help="may be repeated (default train)"
    )
    make.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. distill.top_k=128")
    check = commands.add_parser("verify", help="decode everything; exits with 2 if any is broken")
    check.set_defaults(run=_verify)
    stats = commands.add_parser("stats", help="what there is, per teacher and cut")
    stats.set_defaults(run=_stats)
    stats.add_argument("--json", action="store_true", help="one JSON object on stdout")
    for command in (check, stats):
        command.add_argument("folder", type=Path, metavar="DIR")
    export = commands.add_parser("export", help="one portable file with a checksum")
    export.set_defaults(run=_export)
    export.add_argument("folder", type=Path, metavar="DIR")
    export.add_argument("file", type=Path, metavar="FILE")
    add = commands.add_parser("import", help="add an exported file's targets to a folder")
    add.set_defaults(run=_import)
    add.add_argument("file", type=Path, metavar="FILE")
    add.add_argument("folder", type=Path, metavar="DIR")
    add.add_argument(
        "--max-bytes",
        type=int,
        default=TeachersConfig.cache_bytes,
        metavar="N",
        help="size of DIR at which no more is taken, as teachers.cache_bytes (default %(default)s)",
    )
    return parser


if __name__ == "__main__":
    run_main(main)
