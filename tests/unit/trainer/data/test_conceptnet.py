from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from rich.progress import Progress

from trainer.data.conceptnet import find_conceptnet, read_conceptnet
from trainer.data.word_graph import WordGraph

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


def read(path: Path) -> WordGraph:
    with Progress(disable=True) as progress:
        return read_conceptnet(path, WORDS, progress=progress)


def test_read_conceptnet_keeps_english_pairs_of_the_vocabulary_once(tmp_path: Path) -> None:
    graph = read(write(tmp_path))
    assert graph.words == ("comedy", "film", "funny", "movie")
    assert graph.edges_E2.tolist() == [[0, 1], [0, 2], [1, 3]]
    assert graph.find("A FUNNY film, that's a Movie: unrelated film-noir") == [2, 1, 3]


def test_read_conceptnet_of_a_torn_or_broken_file_is_refused(tmp_path: Path) -> None:
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


@pytest.mark.redial
def test_read_conceptnet_of_real_relations(redial_dir: Path) -> None:
    with Progress(disable=True) as progress:
        graph = read_conceptnet(
            find_conceptnet(redial_dir),
            {"comedy", "drama", "funny", "play", "movie", "film"},
            progress=progress,
        )
    names = {(graph.words[a], graph.words[b]) for a, b in graph.edges_E2}
    assert ("film", "movie") in names
