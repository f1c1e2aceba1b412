from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.data.word_graph import WordGraph, split_words


def test_word_graph_of_pairs_keeps_each_once_in_any_direction() -> None:
    graph = WordGraph.of([("film", "movie"), ("movie", "film"), ("film", "art"), ("art", "art")])
    assert graph.words == ("art", "film", "movie")
    assert graph.edges_E2.tolist() == [[0, 1], [1, 2]]
    assert WordGraph.of([]).edges_E2.shape == (0, 2)


def test_word_graph_save_then_load_keeps_the_digest(tmp_path: Path) -> None:
    graph = WordGraph.of([("film", "movie"), ("comedy", "film")])
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
