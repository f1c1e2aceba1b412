from __future__ import annotations

import json
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.graph_files import PICKLES, read_graph_files
from trainer.data.knowledge_graph import KnowledgeGraph


def read_graph(folder: Path, movie_ids: list[str]) -> KnowledgeGraph:
    return read_graph_files(folder).graph(movie_ids)


ENTITIES = {"<http://dbpedia.org/resource/Heat>": 1, "75962": 0, "<x/Al_Pacino>": 2}
MOVIES = {"200": "<http://dbpedia.org/resource/Heat>", "75962": "75962"}
FILES: dict[str, Any] = {
    "entity2id.json": ENTITIES,
    "movie2entity.json": MOVIES,
    "item_ids.json": [0, 1],
    "dbpedia_subkg.json": {"1": [[3, 2], [0, 1]], "0": [[0, 0]]},
}


def write_files(folder: Path, **changes: Any) -> Path:
    for name, content in {
        **FILES,
        **{f"{key}.json": value for key, value in changes.items()},
    }.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
    return folder


def test_read_graph_sorts_triples_and_follows_the_items_order(tmp_path: Path) -> None:
    graph = read_graph(write_files(tmp_path), ["200", "75962"])
    assert graph.edges_E3.tolist() == [[0, 0, 0], [1, 0, 1], [1, 3, 2]]
    assert (graph.num_entities, graph.num_relations) == (3, 4)
    assert graph.item_entities_I.tolist() == [1, 0]
    assert graph.edges_E3.dtype == graph.item_entities_I.dtype == np.int32


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"entity2id": {"a": 0, "b": 2}}, r"entity2id\.json: ids must be 0\.\.1, got 2 for b"),
        ({"entity2id": {"a": 0, "b": 0}}, r"entity2id\.json: ids must be distinct, got 0 for a"),
        ({"entity2id": [1]}, r"entity2id\.json must be a JSON object, got a list"),
        ({"entity2id": "{"}, r"entity2id\.json must be JSON"),
        ({"movie2entity": {"200": "75962"}}, "exactly the entities of the movies"),
        ({"movie2entity": {**MOVIES, "200": "<y>"}}, r"must be among the entities, got <y>"),
        (
            {"movie2entity": {**MOVIES, "200": "75962"}},
            "must have its own entity, got 75962 for 200 and 75962",
        ),
        ({"movie2entity": {"x": "75962"}}, "a movie id must be a number, got 'x'"),
        ({"movie2entity": {"200": None}}, "entity of 200 must be a string, got None"),
        ({"movie2entity": {}}, "at least one movie"),
        ({"item_ids": [0]}, r"item_ids\.json must be exactly .* the first is 1 \(missing\)"),
        ({"item_ids": [0, 1, 2]}, r"the first is 2 \(not a movie's entity\)"),
        ({"item_ids": {"a": 1}}, "must be a list of entity ids"),
        ({"dbpedia_subkg": {"3": [[0, 0]]}}, r"a head must be in \[0, 3\), got '3'"),
        ({"dbpedia_subkg": {"1": [[0, 3]]}}, r"a tail of head 1 must be in \[0, 3\), got 3"),
        ({"dbpedia_subkg": {"1": [[-1, 0]]}}, r"must hold \[relation, tail\] pairs"),
        ({"dbpedia_subkg": {"1": [0]}}, r"must hold \[relation, tail\] pairs, got 0"),
        ({"dbpedia_subkg": {"1": 0}}, "head 1 must hold a list, got 0"),
        ({"dbpedia_subkg": {}}, "at least one triple"),
    ],
)
def test_read_graph_with_bad_file_names_file_and_value(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        read_graph(write_files(tmp_path, **changes), ["200", "75962"])


def test_read_graph_with_missing_file_names_it(tmp_path: Path) -> None:
    (write_files(tmp_path) / "item_ids.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"item_ids\.json must be a file"):
        read_graph(tmp_path, ["200", "75962"])


def write_pickles(folder: Path, **changes: Any) -> Path:
    """The same graph as KGSF published it; the unlinked movie is a number and has no entity."""
    contents: dict[str, Any] = {
        "entity2id": {75962 if key == "75962" else key: value for key, value in ENTITIES.items()},
        "movie2entity": {200: MOVIES["200"], 75962: None},
        "item_ids": [0, 1],
        "dbpedia_subkg": defaultdict(list, {1: [(3, 2), (0, 1)], 0: [(0, 0)]}),
        **changes,
    }
    for name, content in contents.items():
        data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
        (folder / PICKLES[f"{name}.json"]).write_bytes(data)
    return folder


def test_read_graph_files_of_pickles_equals_that_of_json(tmp_path: Path) -> None:
    (tmp_path / "json").mkdir()
    (tmp_path / "pickle").mkdir()
    plain = read_graph_files(write_files(tmp_path / "json"))
    pickled = read_graph_files(write_pickles(tmp_path / "pickle"))
    assert pickled.entity_ids == plain.entity_ids
    assert pickled.movie_entities == plain.movie_entities
    np.testing.assert_array_equal(pickled.edges_E3, plain.edges_E3)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must never be printed",))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (Evil(), r"subkg\.pkl must be a pickle of plain containers, got: it asks for"),
        (b"cos\nsystem\n(S'true'\ntR.", "it asks for os.system"),
        (pickle.dumps({1: [(3, 2)]})[:-4], r"subkg\.pkl must be a pickle of plain containers"),
        (b"", r"subkg\.pkl must be a pickle of plain containers"),
        ([1], "must be a JSON object, got a list"),
        ({1: [(3, 7)]}, r"a tail of head 1 must be in \[0, 3\), got 7"),
    ],
)
def test_read_graph_files_with_a_bad_pickle_names_it(
    tmp_path: Path, content: Any, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=expected):
        read_graph_files(write_pickles(tmp_path, dbpedia_subkg=content))
    assert capsys.readouterr().out == ""


@pytest.mark.everything
@pytest.mark.redial
def test_read_graph_of_real_files_has_the_known_sizes(redial_dir: Path) -> None:
    movies = json.loads((redial_dir / "movie2entity.json").read_text())
    graph = read_graph(redial_dir, sorted(movies, key=int))
    assert graph.edges_E3.shape == (165_696, 3)
    assert (graph.num_entities, graph.num_relations) == (64_362, 214)
    assert len(graph.item_entities_I) == 6_924
    is_self_loop_E = graph.edges_E3[:, 1] == 86
    assert sorted(graph.edges_E3[is_self_loop_E, 0]) == sorted(graph.item_entities_I)
