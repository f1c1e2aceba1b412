"""ConceptNet's English assertions, cut to the words of a corpus.

Source: Speer et al., ConceptNet 5.5 (AAAI 2017); used as in KGSF (Zhou et al., KDD 2020).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from rich.progress import Progress

from trainer.common.errors import InputError, MissingError
from trainer.data.word_graph import WordGraph

CONCEPTNET_PATTERN = "conceptnet-assertions*.csv.gz"
NUM_COLUMNS = 5
WITHOUT_CONCEPTNET = (
    "Fetch it (python -m trainer.data download conceptnet --output DIR) and name the file with "
    "--conceptnet, or go on without word relations: --no-words"
)
MAX_LINE_BYTES = 1 << 20
ENGLISH = b"/c/en/"


def find_conceptnet(folder: Path) -> Path:
    """The one assertions file of a folder.

    Raises:
        MissingError: if there is none.
        InputError: if there are several.
    """
    found = sorted(folder.glob(CONCEPTNET_PATTERN))
    if not found:
        raise MissingError(
            f"{folder} must hold {CONCEPTNET_PATTERN}, got none. {WITHOUT_CONCEPTNET}"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(
            f"{folder} must hold one {CONCEPTNET_PATTERN}, got {names}. Name one with --conceptnet."
        )
    return found[0]


def read_conceptnet(path: Path, vocabulary: Collection[str], *, progress: Progress) -> WordGraph:
    """The relations between two words of the vocabulary, and the words that have one.

    The file is read as a stream: memory grows with the vocabulary and its edges, not with the file.

    Args:
        path: ConceptNet's assertions, gzip, five columns: assertion, relation, start, end, about.
        vocabulary: words in lower case.

    Raises:
        MissingError: if there is no such file.
        InputError: naming file and line, if the gzip is torn or a line has not five columns.
    """
    if not path.is_file():
        raise MissingError(f"{path} must be ConceptNet's assertions, got no file.")
    words = {word.encode(): word for word in vocabulary}
    with progress.open(path, "rb", description="reading word relations") as raw:
        pairs = {
            (words[start], words[end])
            for start, end in _english_pairs(path, gzip.GzipFile(fileobj=raw, mode="rb"))
            if start in words and end in words
        }
    return WordGraph.of(pairs)


def _english_pairs(path: Path, file: gzip.GzipFile) -> Iterator[tuple[bytes, bytes]]:
    """Start and end of each assertion between English concepts, without part of speech."""
    number = 0
    try:
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            columns = line.split(b"\t")
            if len(columns) != NUM_COLUMNS:
                raise InputError(
                    f"{path}:{number}: the line must have {NUM_COLUMNS} columns, got "
                    f"{len(columns)}. Fetch the file again."
                )
            start, end = columns[2], columns[3]
            if start.startswith(ENGLISH) and end.startswith(ENGLISH):
                yield start.split(b"/", 4)[3], end.split(b"/", 4)[3]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} must be a whole gzip file, got {error} after line {number}. "
            "Fetch the file again."
        ) from error
