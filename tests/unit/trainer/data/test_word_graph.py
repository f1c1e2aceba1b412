from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from trainer.data.word_graph import (
    WordGraph,
    find_conceptnet,
    read_stop_words,
    read_word_graph,
    split_words,
)

WORDS = {"film", "movie", "funny", "comedy", "unrelated"}


def assertion(start: str, end: str) -> str:
    return f"/a/[x]\t/r/RelatedTo\t{start}\t{end}\t{{}}\n"


FILE = "".join(
    [
        assertion("/c/en/movie", "/c/en/film/n"),
        assertion("/c/en/film/n/wn/artifact", "/c/en/movie"),
        assertion("/c/en/funny/a", "/c/en/comedy"),
        assertion("/c/en/film", "/c/en/comedy"),
        assertion("/c/en/film", "/c/en/film"),
        assertion("/c/en/film", "/c/en/love_story"),
        assertion("/c/en/film", "/c/en/camera"),
        assertion("/c/fr/film", "/c/en/movie"),
        assertion("/c/en/movie", "/c/de/film"),
    ]
)


def write(folder: Path, text: str = FILE) -> Path:
    path = folder / "conceptnet-assertions-5.7.0.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    return path


def read(path: Path, stop_words: frozenset[str] = frozenset()) -> WordGraph:
    with Progress(disable=True) as progress:
        return read_word_graph(path, WORDS, stop_words=stop_words, progress=progress)


def test_read_word_graph_keeps_english_pairs_of_the_vocabulary_once(tmp_path: Path) -> None:
    graph = read(write(tmp_path))
    assert graph.words == ("comedy", "film", "funny", "movie")
    assert graph.edges_E2.tolist() == [[0, 1], [0, 2], [1, 3]]
    assert graph.find("A FUNNY film, that's a Movie: unrelated film-noir") == [2, 1, 3]


def test_read_word_graph_leaves_stop_words_out(tmp_path: Path) -> None:
    (tmp_path / "stop").write_text("Funny\nthe\n")
    graph = read(write(tmp_path), read_stop_words(tmp_path / "stop"))
    assert graph.words == ("comedy", "film", "movie")
    with pytest.raises(FileNotFoundError, match="--stop-words must be a file"):
        read_stop_words(tmp_path / "nowhere")


def test_read_word_graph_of_a_torn_or_broken_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, FILE * 200)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"csv\.gz must be a whole gzip file, got"):
        read(path)
    path.write_bytes(FILE.encode())
    with pytest.raises(ValueError, match=r"must be a whole gzip file, got .* after line 0"):
        read(path)
    with pytest.raises(ValueError, match=r"csv\.gz:10: the line must have 5 columns, got 2"):
        read(write(tmp_path, FILE + "a\tb\n"))
    with pytest.raises(FileNotFoundError, match="got no file"):
        read(tmp_path / "nowhere")


def test_find_conceptnet_wants_exactly_one_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="download conceptnet"):
        find_conceptnet(tmp_path)
    path = write(tmp_path)
    assert find_conceptnet(tmp_path) == path
    (tmp_path / "conceptnet-assertions-subset.csv.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="must hold one conceptnet"):
        find_conceptnet(tmp_path)


def test_word_graph_save_then_load_keeps_the_digest(tmp_path: Path) -> None:
    graph = read(write(tmp_path))
    graph.save(tmp_path)
    loaded = WordGraph.load(tmp_path)
    assert (loaded.words, loaded.digest) == (graph.words, graph.digest)
    np.testing.assert_array_equal(loaded.edges_E2, graph.edges_E2)
    path = tmp_path / "words.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="must be a word graph"):
        WordGraph.load(tmp_path)
    empty = WordGraph((), np.empty((0, 2), np.int32))
    empty.save(tmp_path)
    assert WordGraph.load(tmp_path).words == ()


@pytest.mark.parametrize(
    ("words", "edges", "expected"),
    [
        (("b", "a"), [[0, 1]], "sorted and distinct"),
        (("a", "b"), [[0, 2]], r"must be in \[0, 2\), got 0\.\.2"),
        (("a", "b"), [[0]], r"edges_E2 must be int32 \[E, 2\]"),
    ],
)
def test_word_graph_that_does_not_fit_together_is_refused(
    words: tuple[str, ...], edges: list[list[int]], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        WordGraph(words, np.array(edges, np.int32))


def test_split_words_keeps_inner_apostrophes_and_hyphens() -> None:
    assert split_words("Don't say 'sci-fi' 3 times-") == ["don't", "say", "sci-fi", "times"]


@pytest.mark.redial
def test_read_word_graph_of_real_relations(redial_dir: Path) -> None:
    with Progress(disable=True) as progress:
        graph = read_word_graph(
            find_conceptnet(redial_dir),
            {"comedy", "drama", "funny", "play", "movie", "film"},
            stop_words=frozenset(),
            progress=progress,
        )
    names = {(graph.words[a], graph.words[b]) for a, b in graph.edges_E2}
    assert ("film", "movie") in names
