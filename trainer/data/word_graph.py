"""Words that are related: ConceptNet's English assertions, cut to the words of a corpus.

W words, E edges.

Source: Speer et al., ConceptNet 5.5 (AAAI 2017); used as in KGSF (Zhou et al., KDD 2020), whose
word edges have no type and no direction.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.numpy import load, save

from protos.fingerprint import digest_arrays
from trainer.common.atomic import write_bytes

WORDS_NAME = "words.safetensors"
CONCEPTNET_PATTERN = "conceptnet-assertions*.csv.gz"
NUM_COLUMNS = 5
MAX_LINE_BYTES = 1 << 20
ENGLISH = b"/c/en/"
WORD_PATTERN = re.compile(r"[a-z]+(?:['-][a-z]+)*")


@dataclass(frozen=True, eq=False)
class WordGraph:
    """Words and the pairs of them that are related; a word's id is its place in the list."""

    words: tuple[str, ...]
    """Sorted, distinct, in lower case."""
    edges_E2: np.ndarray
    """int32 [E, 2], first < second, sorted and distinct."""

    def __post_init__(self) -> None:
        edges_E2, num_words = self.edges_E2, len(self.words)
        if edges_E2.dtype != np.int32 or edges_E2.ndim != 2 or edges_E2.shape[1] != 2:
            raise ValueError(
                f"edges_E2 must be int32 [E, 2], got {edges_E2.dtype} {edges_E2.shape}."
            )
        if list(self.words) != sorted(set(self.words)):
            raise ValueError("words must be sorted and distinct.")
        if edges_E2.size and (edges_E2.min() < 0 or edges_E2.max() >= num_words):
            raise ValueError(
                f"each word of an edge must be in [0, {num_words}), got "
                f"{edges_E2.min()}..{edges_E2.max()}."
            )

    @cached_property
    def ids(self) -> dict[str, int]:
        """Word -> id."""
        return {word: index for index, word in enumerate(self.words)}

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of words and edges."""
        return digest_arrays(self._arrays())

    def find(self, text: str) -> list[int]:
        """Ids of the text's words that are in the graph, in order, repeats kept."""
        ids = self.ids
        return [ids[word] for word in split_words(text) if word in ids]

    def save(self, folder: Path) -> None:
        """Write words.safetensors into the folder."""
        write_bytes(folder / WORDS_NAME, save(self._arrays()))

    @staticmethod
    def load(folder: Path) -> WordGraph:
        """The word graph saved in a folder; ValueError if the file is torn or out of range."""
        path = folder / WORDS_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{folder} must hold {WORDS_NAME}, got none. Prepare the data.")
        try:
            arrays = load(path.read_bytes())
            text = arrays["words"].tobytes().decode()
            return WordGraph(tuple(text.split("\n")) if text else (), arrays["edges_E2"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path} must be a word graph, got {error}. Prepare the data again."
            ) from error

    def _arrays(self) -> dict[str, np.ndarray]:
        words = np.frombuffer("\n".join(self.words).encode(), np.uint8)
        return {"words": words, "edges_E2": self.edges_E2}


def split_words(text: str) -> list[str]:
    """Words in lower case: letters with inner apostrophes and hyphens, as in ConceptNet."""
    return WORD_PATTERN.findall(text.lower())


def find_conceptnet(folder: Path) -> Path:
    """The one assertions file of a folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are several.
    """
    found = sorted(folder.glob(CONCEPTNET_PATTERN))
    if not found:
        raise FileNotFoundError(
            f"{folder} must hold {CONCEPTNET_PATTERN}, got none. Name the file with --conceptnet, "
            "or fetch it: python -m trainer.data download conceptnet --output DIR"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(
            f"{folder} must hold one {CONCEPTNET_PATTERN}, got {names}. Name one with --conceptnet."
        )
    return found[0]


def read_word_graph(
    path: Path, vocabulary: Collection[str], *, stop_words: Container[str], progress: Progress
) -> WordGraph:
    """The edges between two words of the vocabulary, and the words that have one.

    The file is read as a stream: memory grows with the vocabulary and its edges, not with the file.

    Args:
        path: ConceptNet's assertions, gzip, five columns: assertion, relation, start, end, about.
        vocabulary: words in lower case.
        stop_words: words left out of the graph (KGSF drops them, CRSLab keeps them).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and line, if the gzip is torn or a line has not five columns.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be ConceptNet's assertions, got no file.")
    kept = sorted(word for word in set(vocabulary) if word not in stop_words)
    number = {word.encode(): index for index, word in enumerate(kept)}
    with progress.open(path, "rb", description="reading word relations") as raw:
        pairs = {
            (min(start, end), max(start, end))
            for first, second in _english_pairs(path, gzip.GzipFile(fileobj=raw, mode="rb"))
            if (start := number.get(first)) is not None
            and (end := number.get(second)) is not None
            and start != end
        }
    edges_E2 = np.array(sorted(pairs), np.int32).reshape(-1, 2)
    used, renumbered = np.unique(edges_E2, return_inverse=True)
    return WordGraph(
        words=tuple(kept[index] for index in used),
        edges_E2=renumbered.reshape(-1, 2).astype(np.int32),
    )


def read_stop_words(path: Path) -> frozenset[str]:
    """Words of a text file, one a line, in lower case."""
    if not path.is_file():
        raise FileNotFoundError(f"--stop-words must be a file, got {path}. One word a line.")
    return frozenset(path.read_text(encoding="utf-8").lower().split())


def _english_pairs(path: Path, file: gzip.GzipFile) -> Iterator[tuple[bytes, bytes]]:
    """Start and end of each assertion between English concepts, without part of speech."""
    number = 0
    try:
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            columns = line.split(b"\t")
            if len(columns) != NUM_COLUMNS:
                raise ValueError(
                    f"{path}:{number}: the line must have {NUM_COLUMNS} columns, got "
                    f"{len(columns)}. Fetch the file again."
                )
            start, end = columns[2], columns[3]
            if start.startswith(ENGLISH) and end.startswith(ENGLISH):
                yield start.split(b"/", 4)[3], end.split(b"/", 4)[3]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path} must be a whole gzip file, got {error} after line {number}. "
            "Fetch the file again."
        ) from error
