from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.knowledge_graph import KnowledgeGraph, read_graph, readable_name

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
        ({"movie2entity": {"200": "75962"}}, "movie 75962 must have an entity, got none"),
        ({"movie2entity": {**MOVIES, "200": "<y>"}}, r"must be in entity2id\.json, got <y>"),
        ({"movie2entity": {**MOVIES, "200": "75962"}}, "got entity 0 for two movies"),
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


def test_graph_save_then_load_keeps_digest_and_torn_file_is_refused(tmp_path: Path) -> None:
    graph = read_graph(write_files(tmp_path), ["200", "75962"])
    graph.save(tmp_path)
    loaded = KnowledgeGraph.load(tmp_path)
    assert loaded.digest == graph.digest
    assert loaded.edges_E3.tolist() == graph.edges_E3.tolist()
    assert (loaded.num_entities, loaded.num_relations) == (3, 4)
    path = tmp_path / "graph.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="must be a knowledge graph"):
        KnowledgeGraph.load(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"graph\.safetensors"):
        KnowledgeGraph.load(tmp_path)


def test_graph_digest_changes_with_the_items_order(tmp_path: Path) -> None:
    write_files(tmp_path)
    first, second = (read_graph(tmp_path, ids) for ids in (["200", "75962"], ["75962", "200"]))
    assert first.digest != second.digest


def test_graph_out_of_range_is_refused() -> None:
    edges_E3 = np.array([[0, 0, 5]], dtype=np.int32)
    with pytest.raises(ValueError, match=r"each tail entity must be in \[0, 2\), got 5"):
        KnowledgeGraph(edges_E3, 2, 1, np.array([0], dtype=np.int32))


@pytest.mark.parametrize(
    ("entity", "name"),
    [
        ("<http://dbpedia.org/resource/Dark_Water_(2002_film)>", "Dark Water (2002)"),
        ("<http://dbpedia.org/resource/Over_the_Edge_(film)>", "Over the Edge"),
        ("<http://dbpedia.org/resource/Highlander_(comics)>", "Highlander"),
        ("<http://dbpedia.org/resource/Why_Me%3F_(2015_film)>", "Why Me? (2015)"),
        ("<http://dbpedia.org/resource/Toy_Story_2>", "Toy Story 2"),
        ("<http://dbpedia.org/resource/(Untitled)>", "(Untitled)"),
    ],
)
def test_readable_name_keeps_only_a_year_of_a_last_bracket(entity: str, name: str) -> None:
    assert readable_name(entity) == name


@pytest.mark.redial
def test_read_graph_of_real_files_has_the_known_sizes(redial_dir: Path) -> None:
    movies = json.loads((redial_dir / "movie2entity.json").read_text())
    graph = read_graph(redial_dir, sorted(movies, key=int))
    assert graph.edges_E3.shape == (165_696, 3)
    assert (graph.num_entities, graph.num_relations) == (64_362, 214)
    assert len(graph.item_entities_I) == 6_924
    is_self_loop_E = graph.edges_E3[:, 1] == 86
    assert sorted(graph.edges_E3[is_self_loop_E, 0]) == sorted(graph.item_entities_I)
