"""Words that are related: an undirected graph over words of a corpus.

W words, E edges.

Source: KGSF (Zhou et al., KDD 2020), whose word edges have no type and no direction.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from protos.fingerprint import digest_arrays
from trainer.common.atomic import write_bytes
from trainer.common.errors import InputError, MissingError

WORDS_NAME = "words.safetensors"
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
            raise InputError(
                f"edges_E2 must be int32 [E, 2], got {edges_E2.dtype} {edges_E2.shape}."
            )
        if list(self.words) != sorted(set(self.words)):
            raise InputError("words must be sorted and distinct.")
        if edges_E2.size and (edges_E2.min() < 0 or edges_E2.max() >= num_words):
            raise InputError(
                f"each word of an edge must be in [0, {num_words}), got "
                f"{edges_E2.min()}..{edges_E2.max()}."
            )

    @staticmethod
    def of(pairs: Collection[tuple[str, str]]) -> WordGraph:
        """The graph of related words; pairs of a word with itself are left out."""
        edges = sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})
        words = tuple(sorted({word for pair in edges for word in pair}))
        ids = {word: index for index, word in enumerate(words)}
        numbered = [(ids[first], ids[second]) for first, second in edges]
        return WordGraph(words, np.array(numbered, np.int32).reshape(-1, 2))

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
            raise MissingError(f"{folder} must hold {WORDS_NAME}, got none. Prepare the data.")
        try:
            arrays = load(path.read_bytes())
            text = arrays["words"].tobytes().decode()
            return WordGraph(tuple(text.split("\n")) if text else (), arrays["edges_E2"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise InputError(
                f"{path} must be a word graph, got {error}. Prepare the data again."
            ) from error

    def _arrays(self) -> dict[str, np.ndarray]:
        words = np.frombuffer("\n".join(self.words).encode(), np.uint8)
        return {"words": words, "edges_E2": self.edges_E2}


def split_words(text: str) -> list[str]:
    """Words in lower case: letters with inner apostrophes and hyphens, as in ConceptNet."""
    return WORD_PATTERN.findall(text.lower())
