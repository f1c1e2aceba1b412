from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.data.knowledge_graph import KnowledgeGraph, readable_name


def small_graph(*items: int) -> KnowledgeGraph:
    edges_E3 = np.array([[0, 0, 0], [1, 0, 1], [1, 3, 2]], np.int32)
    return KnowledgeGraph(edges_E3, 3, 4, np.array(items, np.int32))


def test_graph_save_then_load_keeps_digest_and_torn_file_is_refused(tmp_path: Path) -> None:
    graph = small_graph(1, 0)
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


def test_graph_digest_changes_with_the_items_order() -> None:
    assert small_graph(1, 0).digest != small_graph(0, 1).digest


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
