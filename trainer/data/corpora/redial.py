"""ReDial: a folder of JSON-lines files, or the official zip; graph and words as KGSF has them.

The official zip has no valid file.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainer.common.errors import InputError, MissingError
from trainer.data.corpora.redial_lines import read_dialogues
from trainer.data.corpus import Corpus
from trainer.data.dialogue import SPLITS, Dialogue, Split
from trainer.data.tokenizer import pretrained_tokenizer

NEEDS = "the folder or zip that holds train_data.jsonl and test_data.jsonl"
MAX_FILE_BYTES = 1 << 30

DialogueFile = Path | zipfile.Path


def read_splits(source: Path) -> dict[Split, Iterator[Dialogue]]:
    """Dialogues of every split that is there.

    Args:
        source: folder or zip with train_data.jsonl, test_data.jsonl and perhaps valid_data.jsonl.

    Raises:
        MissingError: if the source or, on reading, a file is missing.
        InputError: naming file and line, for the first thing that is wrong.
    """
    return {split: _read_whole(source, file) for split, file in _find_files(source).items()}


def _read_whole(source: Path, file: DialogueFile) -> Iterator[Dialogue]:
    try:
        yield from read_dialogues(file)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{source} must be a whole zip, got: {error}. Fetch it again.") from error


def _find_files(source: Path) -> dict[Split, DialogueFile]:
    """The file of each split; valid may be missing."""
    if source.is_dir():
        found: dict[Split, DialogueFile] = {s: source / f"{s}_data.jsonl" for s in SPLITS}
    elif source.is_file():
        found = _find_in_zip(source)
    else:
        raise MissingError(f"--input must be a folder or a zip, got {source}. Check the path.")
    if not found["valid"].is_file():
        del found["valid"]
    return found


def _find_in_zip(source: Path) -> dict[Split, DialogueFile]:
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise InputError(
            f"--input must be a folder or a whole zip, got {source}: {error}. Fetch it again."
        ) from error
    for member in archive.infolist():
        if member.file_size > MAX_FILE_BYTES:
            raise InputError(
                f"{source}: {member.filename} must be at most {MAX_FILE_BYTES} bytes, claims "
                f"{member.file_size}."
            )
    return {
        split: zipfile.Path(archive, _member(archive.namelist(), f"{split}_data.jsonl"))
        for split in SPLITS
    }


def _member(names: Iterable[str], wanted: str) -> str:
    """The member of this name, in whatever folder of the zip."""
    return next((name for name in names if name.rsplit("/", 1)[-1] == wanted), wanted)


REDIAL = Corpus(
    name="redial",
    needs=NEEDS,
    read_splits=read_splits,
    make_tokenizer=pretrained_tokenizer("microsoft/DialoGPT-small"),
    credit=(
        "ReDial (Li, Kahou, Schulz, Michalski, Charlin and Pal, Towards Deep Conversational "
        "Recommendations, NeurIPS 2018; https://redialdata.github.io/website/, CC BY 4.0)"
    ),
)
