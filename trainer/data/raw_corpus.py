"""The dialogues of a corpus by split: a folder of files, or ReDial's official zip.

ReDial has no valid file: it is then drawn from the train dialogues, the same for the same seed.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from rich.progress import Progress

from trainer.data.redial import Dialogue, read_dialogues

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
VALID_SHARE = 0.09
"""Of the train dialogues; of ReDial's 10,006 that is 901, as in the peers' files."""
MAX_FILE_BYTES = 1 << 30

Corpus = dict[Split, list[Dialogue]]
DialogueFile = Path | zipfile.Path


@dataclass(frozen=True, kw_only=True)
class RawCorpus:
    """All dialogues, and which of them were drawn for valid."""

    dialogues: Corpus
    drawn_valid_ids: tuple[str, ...]
    """In the order of the train file; empty if the corpus has a valid file."""


def read_corpus(
    source: Path, *, movie_ids: Container[str], valid_seed: int, progress: Progress
) -> RawCorpus:
    """Read and check every dialogue.

    Args:
        source: folder or zip with train_data.jsonl, test_data.jsonl and perhaps valid_data.jsonl.
        movie_ids: the catalogue; every movie mentioned must be in it.
        valid_seed: draws valid where there is no file.

    Raises:
        FileNotFoundError: if the source or a file is missing.
        ValueError: naming file and line, for the first thing that is wrong.
    """
    files = _find_files(source)
    try:
        dialogues: Corpus = {
            split: list(
                progress.track(
                    read_dialogues(file, movie_ids=movie_ids),
                    total=None,
                    description=f"reading {split}",
                )
            )
            for split, file in files.items()
        }
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{source} must be a whole zip, got: {error}. Fetch it again.") from error
    check_disjoint(dialogues)
    if "valid" in dialogues:
        return RawCorpus(dialogues=dialogues, drawn_valid_ids=())
    train, valid = draw_valid(dialogues["train"], valid_seed)
    return RawCorpus(
        dialogues={"train": train, "valid": valid, "test": dialogues["test"]},
        drawn_valid_ids=tuple(dialogue.dialogue_id for dialogue in valid),
    )


def draw_valid(dialogues: Sequence[Dialogue], seed: int) -> tuple[list[Dialogue], list[Dialogue]]:
    """The rest and a seeded share for valid, both in the order of the file."""
    num_valid = max(1, round(VALID_SHARE * len(dialogues)))
    if num_valid == len(dialogues):
        raise ValueError(
            "train_data.jsonl must hold at least two dialogues to draw valid from, got "
            f"{len(dialogues)}. Add valid_data.jsonl."
        )
    drawn = set(np.random.default_rng(seed).permutation(len(dialogues))[:num_valid].tolist())
    rest = [dialogue for index, dialogue in enumerate(dialogues) if index not in drawn]
    return rest, [dialogue for index, dialogue in enumerate(dialogues) if index in drawn]


def check_disjoint(corpus: Corpus) -> None:
    """Raise ValueError if a dialogue is in two splits."""
    owner: dict[str, str] = {}
    for split, dialogues in corpus.items():
        for dialogue in dialogues:
            first = owner.setdefault(dialogue.dialogue_id, split)
            if first != split:
                raise ValueError(
                    f"dialogue {dialogue.dialogue_id} must be in one split, got it in {first} and "
                    f"{split}. Remove it from one of them."
                )


def _find_files(source: Path) -> dict[Split, DialogueFile]:
    """The file of each split; valid may be missing."""
    if source.is_dir():
        found: dict[Split, DialogueFile] = {s: source / f"{s}_data.jsonl" for s in SPLITS}
    elif source.is_file():
        found = _find_in_zip(source)
    else:
        raise FileNotFoundError(f"--input must be a folder or a zip, got {source}. Check the path.")
    if not found["valid"].is_file():
        del found["valid"]
    return found


def _find_in_zip(source: Path) -> dict[Split, DialogueFile]:
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"--input must be a folder or a whole zip, got {source}: {error}. Fetch it again."
        ) from error
    for member in archive.infolist():
        if member.file_size > MAX_FILE_BYTES:
            raise ValueError(
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
