"""What `python -m trainer.targets` does: a table, a line or JSON on stdout, progress on stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from protos.codec import WireError
from trainer.common.errors import MissingError
from trainer.config.teachers import TeachersConfig
from trainer.target_cache.archive import export_file, import_file
from trainer.target_cache.inspect import CacheStats, GroupSummary, inspect_cache
from trainer.target_cache.store import TargetCache
from trainer.targets.build import build


def _build(arguments: argparse.Namespace, progress: Progress) -> None:
    counted = build(arguments.config, arguments.split or ["train"], progress)
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
    for name in ("kind", "weights", "dtype"):
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
        group.dtype,
        f"{group.temperature:g}",
        group.cut,
        f"{group.num_entries:,}",
        f"{group.num_rows:,}",
        f"{group.num_bytes:,}",
        "-" if per_row is None else f"{per_row:.1f}",
        "-" if kept is None else f"{kept:.3f}",
    ]


COMMANDS: dict[str, Callable[[argparse.Namespace, Progress], None]] = {
    "build": _build,
    "verify": _verify,
    "stats": _stats,
    "export": _export,
    "import": _import,
}
