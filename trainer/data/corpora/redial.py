"""ReDial: a folder of JSON-lines files, or the official zip; graph and words as KGSF has them.

The official zip has no valid file.
"""

from __future__ import annotations

import shlex
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainer.common.errors import InputError, MissingError
from trainer.data.corpora.redial_lines import read_dialogues
from trainer.data.corpus import Corpus, check_conceptnet
from trainer.data.dialogue import SPLITS, BadRecord, Dialogue, Split

NEEDS = "the folder or zip that holds train_data.jsonl and test_data.jsonl"
MAX_FILE_BYTES = 1 << 30

DialogueFile = Path | zipfile.Path


def read_splits(source: Path) -> dict[Split, Iterator[Dialogue | BadRecord]]:
    """Dialogues of every split that is there; errors while reading as in `read_dialogues`.

    Args:
        source: folder or zip with train_data.jsonl, test_data.jsonl and perhaps valid_data.jsonl.

    Raises:
        MissingError: if the source or a file is missing.
        InputError: if the source is no folder and no whole zip.
    """
    return {split: _read_whole(source, file) for split, file in _find_files(source).items()}


def _read_whole(source: Path, file: DialogueFile) -> Iterator[Dialogue | BadRecord]:
    try:
        yield from read_dialogues(file)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{source} must be a whole zip, got: {error}. Fetch it again.") from error


def _find_files(source: Path) -> dict[Split, DialogueFile]:
    """The file of each split; valid may be missing."""
    if source.is_dir():
        found: dict[Split, DialogueFile] = {s: source / file_name(s) for s in SPLITS}
    elif source.is_file():
        found = _find_in_zip(source)
    else:
        raise MissingError(f"--input must be {NEEDS}, got {source}. Check the path.")
    for file in found.values():
        _check_is_there(file)
    return {split: file for split, file in found.items() if file.is_file()}


def _check_is_there(file: DialogueFile) -> None:
    """Valid may be missing, but not because it is still compressed."""
    if file.is_file():
        return
    compressed = Path(f"{file}.gz")
    if compressed.is_file():
        raise MissingError(
            f"{file} must be a file of dialogues, got {compressed.name} alone. "
            f"Decompress it: gunzip -k {shlex.quote(str(compressed))}"
        )
    if file.name == file_name("valid"):
        return
    raise MissingError(f"{file} must be a file of dialogues, got none. --input must be {NEEDS}.")


def file_name(split: Split) -> str:
    """The file of a split."""
    return f"{split}_data.jsonl"


def _find_in_zip(source: Path) -> dict[Split, DialogueFile]:
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise InputError(
            f"--input must be {NEEDS}, got {source}: {error}. Name the folder, or fetch the zip "
            "again: python -m trainer.data download redial --output DIR"
        ) from error
    for member in archive.infolist():
        if member.file_size > MAX_FILE_BYTES:
            raise InputError(
                f"{source}: {member.filename} must be at most {MAX_FILE_BYTES} bytes, got "
                f"{member.file_size}. Fetch the zip again."
            )
    return {
        split: zipfile.Path(archive, _member(archive.namelist(), file_name(split)))
        for split in SPLITS
    }


def _member(names: Iterable[str], wanted: str) -> str:
    """The member of this name, in whatever folder of the zip."""
    return next((name for name in names if name.rsplit("/", 1)[-1] == wanted), wanted)


REDIAL = Corpus(
    name="redial",
    needs=NEEDS,
    read_splits=read_splits,
    tokenizer_name="microsoft/DialoGPT-small",
    check_files=check_conceptnet,
    credit=(
        "ReDial (Li, Kahou, Schulz, Michalski, Charlin and Pal, Towards Deep Conversational "
        "Recommendations, NeurIPS 2018; https://redialdata.github.io/website/, CC BY 4.0)"
    ),
)
