"""Which checkpoints are whole, and which of them is the newest.

DeepSpeed writes a checkpoint as a folder of files, one or more per rank; a crash can leave it torn.
So after all ranks have written theirs, the folder gets a list of its files with their sizes and
digests, by one rename: a folder without that list, or with other files than listed, is never
loaded. Sizes are looked at every time; digests before a checkpoint is loaded, each rank its share.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.fingerprint import digest_file
from trainer.checkpoints.policy import checkpoints_to_keep
from trainer.common.atomic import write_json
from trainer.common.errors import InputError, MissingError

TAG_PREFIX, UNIVERSAL_PREFIX = "step-", "universal-"
# Other entries of the folder are never read or removed.
TAG = re.compile(rf"{TAG_PREFIX}\d{{8}}")
UNIVERSAL_TAG = re.compile(rf"\.?{UNIVERSAL_PREFIX}{TAG.pattern}")
WHOLE_NAME = "whole.json"
DIGESTS_PREFIX = "digests-"
# Of whole.json. A number that is not ours is refused.
FORMAT = 2
# One list of all checkpoints, of an earlier version: refused, or its folders would be cleared.
EARLIER_LIST_NAME = "newest.json"
# DeepSpeed writes it beside a rearranged checkpoint. Nobody reads it: we name what is loaded.
UNIVERSAL_LIST_NAME = "latest_universal"
CHECKPOINTS_NAME = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class WholeCheckpoint:
    """A checkpoint that can be loaded."""

    step: int
    """Optimiser steps done; the data goes on from here."""
    ranks: int
    """How many wrote it."""


def tag_of(step: int) -> str:
    """Folder name of the checkpoint after `step` optimiser steps."""
    return f"{TAG_PREFIX}{step:08d}"


def step_of(path: Path) -> int:
    """The step of a folder that `tag_of` has named."""
    return int(path.name.removeprefix(TAG_PREFIX))


def tagged(folder: Path) -> list[Path]:
    """Entries of a folder that `tag_of` has named; none if there is no folder."""
    return _named(folder, TAG)


def universal_tag_of(step: int) -> str:
    """Folder name of the same rearranged for any number of ranks; with a dot while unfinished."""
    return f"{UNIVERSAL_PREFIX}{tag_of(step)}"


def newest_whole(folder: Path) -> WholeCheckpoint | None:
    """The newest whole checkpoint below `folder`, or None if no checkpoint was ever finished.

    Raises:
        MissingError: if there were some, and all of them are damaged.
        InputError: if an earlier version wrote them.
    """
    if (folder / EARLIER_LIST_NAME).exists():
        raise InputError(
            f"checkpoints in {folder} must have been written by this version, got those of an "
            "earlier one. Finish the run with that version, or start over with train.resume=false."
        )
    problems = []
    for path in _newest_first(folder):
        problem = find_damage(path)
        if problem is None:
            listed = json.loads((path / WHOLE_NAME).read_text())
            _check_format(path, listed)
            return WholeCheckpoint(step=listed["step"], ranks=listed["ranks"])
        if (path / WHOLE_NAME).exists():
            problems.append(f"{path.name}: {problem}")
    if problems:
        raise MissingError(
            f"one checkpoint in {folder} must be whole, got {'; '.join(problems)}. Restore one, or "
            "start over with train.resume=false."
        )
    return None


def damaged(folder: Path) -> list[tuple[Path, str]]:
    """Checkpoints that cannot be loaded, each with the reason."""
    found = [(path, find_damage(path)) for path in _newest_first(folder)]
    return [(path, problem) for path, problem in found if problem is not None]


def find_damage(path: Path) -> str | None:
    """The reason why a checkpoint cannot be loaded; None: it is whole."""
    if not (path / WHOLE_NAME).is_file():
        return "it was not finished"
    try:
        listed = json.loads((path / WHOLE_NAME).read_text())
        if listed.get("format") != FORMAT or listed.get("damage"):
            return listed.get("damage")
        sizes = {name: each["bytes"] for name, each in listed["files"].items()}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        return f"{WHOLE_NAME} lists nothing: {error!r}"
    for name, size in sizes.items():
        file = path / name
        got = file.stat().st_size if file.is_file() else None
        if got != size:
            return f"{name} must have {size} bytes, got {'no file' if got is None else got}"
    return None


def _check_format(path: Path, listed: Mapping[str, Any]) -> None:
    if listed.get("format") != FORMAT:
        raise InputError(
            f"{path / WHOLE_NAME} must have format {FORMAT}, got {listed.get('format')}: another "
            "version of this trainer wrote it. Finish the run with that one, or start over with "
            "train.resume=false."
        )


def find_changed(path: Path, *, share: int, shares: int) -> str:
    """Why the content of a whole checkpoint is not what was written; empty: it is.

    One of `shares` callers, number `share`, reads every so many-th file.
    """
    files = json.loads((path / WHOLE_NAME).read_text())["files"]
    for name in sorted(files)[share::shares]:
        digest = digest_file(path / name)
        if digest != files[name]["sha256"]:
            return f"{name} must have digest {files[name]['sha256']}, got {digest}"
    return ""


def mark_damaged(path: Path, damage: str) -> None:
    """Note in a checkpoint's list that it must not be loaded, and why."""
    listed = json.loads((path / WHOLE_NAME).read_text())
    write_json(path / WHOLE_NAME, {**listed, "damage": damage})


def write_digests(path: Path, *, share: int, shares: int) -> None:
    """Note the digests of every `shares`-th file, from number `share` on; `commit` joins them."""
    names = _written(path)[share::shares]
    write_json(path / _digests_name(share), {name: digest_file(path / name) for name in names})


def flush(path: Path) -> None:
    """Write what the page cache of this machine holds of a folder's files to the disk."""
    for each in (*path.rglob("*"), path):
        if not (each.is_file() or each.is_dir()):
            continue
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def commit(folder: Path, step: int, *, ranks: int, keep: int) -> None:
    """Make the checkpoint of `step` whole, and remove those that the policy does not keep.

    Call it on one rank, after every rank has written its files and its share of the digests.
    """
    path = folder / tag_of(step)
    digests: dict[str, str] = {}
    for rank in range(ranks):
        digests |= json.loads((path / _digests_name(rank)).read_text())
    files = {
        name: {"bytes": (path / name).stat().st_size, "sha256": digests[name]}
        for name in _written(path)
    }
    listed = {"format": FORMAT, "step": step, "ranks": ranks, "files": files}
    write_json(path / WHOLE_NAME, listed)
    for rank in range(ranks):
        (path / _digests_name(rank)).unlink()
    kept = checkpoints_to_keep([step_of(each) for each in _whole(folder)], keep)
    unneeded = [each for each in _newest_first(folder) if step_of(each) not in kept]
    for other in (*unneeded, *_universal(folder)):
        remove(other)


def oldest_whole(folder: Path) -> int:
    """The step of the oldest whole checkpoint; 0: there is none."""
    whole = _whole(folder)
    return step_of(whole[-1]) if whole else 0


def clear_unfinished(folder: Path) -> None:
    """Remove what a crash has left of rearranging a checkpoint, and an earlier version."""
    (folder / UNIVERSAL_LIST_NAME).unlink(missing_ok=True)
    for path in _universal(folder):
        if path.name.startswith("."):
            shutil.rmtree(path)


def remove(path: Path) -> None:
    """Remove a checkpoint's folder, its list first: a crash in between leaves nothing whole."""
    (path / WHOLE_NAME).unlink(missing_ok=True)
    shutil.rmtree(path)


def forget(folder: Path) -> None:
    """Remove all checkpoints; none of them is whole once the first is touched."""
    for path in _newest_first(folder):
        (path / WHOLE_NAME).unlink(missing_ok=True)
    for path in (*_newest_first(folder), *_universal(folder)):
        shutil.rmtree(path)
    for name in (EARLIER_LIST_NAME, UNIVERSAL_LIST_NAME):
        (folder / name).unlink(missing_ok=True)


def _written(path: Path) -> list[str]:
    """Names of a checkpoint's files, without our own lists.

    Another rank may be writing its list now: until it has its name, it begins with a dot.
    """
    own = (".", WHOLE_NAME, DIGESTS_PREFIX)
    return sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith(own)
    )


def _digests_name(rank: int) -> str:
    return f"{DIGESTS_PREFIX}{rank:05d}.json"


def _whole(folder: Path) -> list[Path]:
    return [each for each in _newest_first(folder) if find_damage(each) is None]


def _newest_first(folder: Path) -> list[Path]:
    return sorted(tagged(folder), reverse=True)


def _universal(folder: Path) -> list[Path]:
    return _named(folder, UNIVERSAL_TAG)


def _named(folder: Path, name: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if name.fullmatch(path.name)]
