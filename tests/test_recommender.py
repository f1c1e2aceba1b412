from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, tensor
from torch_geometric.nn import RGCNConv

from trainer.data.examples import Example
from trainer.data.graph_files import read_graph_files
from trainer.data.knowledge_graph import KnowledgeGraph
from trainer.data.prepare import load_prepared
from trainer.data.vocabulary import Vocabulary
from trainer.models.frozen_recommender import FrozenRecommender, attentive_pool, load_recommender
from trainer.models.recommender import Recommender, freeze
from trainer.models.rgcn import (
    RelationalConv,
    RelationalEdges,
    plan_messages,
    relational_edges,
    restrict_edges,
    widen,
)
from trainer.pretrain.recommendation import (
    RecommendationConfig,
    fit_recommendation,
    log_popularity,
    ranking_scores,
    to_samples,
)


def graph_of(triples: list[tuple[int, int, int]], num_entities: int, items: list[int]):
    return KnowledgeGraph(
        edges_E3=np.array(triples, dtype=np.int32),
        num_entities=num_entities,
        num_relations=1 + max(relation for _, relation, _ in triples),
        item_entities_I=np.array(items, dtype=np.int32),
    )


def twelve_nodes() -> RelationalEdges:
    rng = np.random.default_rng(0)
    triples = {(int(h), int(r), int(t)) for h, r, t in rng.integers(0, [12, 3, 12], size=(40, 3))}
    return relational_edges(graph_of(sorted(triples), 12, [3, 5]), min_relation_edges=0)


def random_conv(edges: RelationalEdges) -> RelationalConv:
    torch.manual_seed(0)
    conv = RelationalConv(edges.num_entities, edges.num_relations, hidden_size=4, num_bases=2)
    torch.nn.init.normal_(conv.bias_D)
    return conv


def test_relational_edges_adds_both_directions_and_one_loop_per_node() -> None:
    # Relation 0 has its triple in both directions already: 4 edges, 2 distinct. Relation 1 has 2.
    triples = [(0, 0, 1), (0, 1, 2), (1, 0, 0), (2, 2, 2)]
    edges = relational_edges(graph_of(triples, 3, [0]), min_relation_edges=1)
    expected = {(0, 0, 1), (1, 0, 0), (0, 1, 2), (2, 1, 0), (0, 2, 0), (1, 2, 1), (2, 2, 2)}
    assert {tuple(edge) for edge in edges.edges_G3.tolist()} == expected
    assert len(edges.edges_G3) == len(expected)
    assert edges.num_relations == 3


def test_relational_edges_counts_before_duplicates_go_and_keeps_only_more() -> None:
    triples = [(0, 0, 1), (0, 1, 2), (1, 0, 0), (1, 2, 2), (2, 1, 1)]
    edges = relational_edges(graph_of(triples, 3, [0]), min_relation_edges=2)
    # Relations 0 and 1 have 4 edges; relation 2 has 2, which is not more than 2.
    assert edges.num_relations == 3
    assert (0, 1, 2) in {tuple(edge) for edge in edges.edges_G3.tolist()}


@pytest.mark.redial
@pytest.mark.parametrize(
    ("minimum", "relations", "edges"), [(1000, 35, 358_092), (500, 46, 365_028)]
)
def test_relational_edges_on_dbpedia_match_the_peers(
    redial_dir: Path, minimum: int, relations: int, edges: int
) -> None:
    files = read_graph_files(redial_dir)
    graph = files.graph(sorted(files.movie_entities, key=int))
    found = relational_edges(graph, min_relation_edges=minimum)
    # The peers allocate 64,368 rows for 64,362 entities: six self-loops more.
    assert (found.num_relations, len(found.edges_G3)) == (relations, edges - 6)


def test_relational_conv_equals_rgcn_conv_with_sum() -> None:
    edges = twelve_nodes()
    conv = random_conv(edges)
    twin = RGCNConv(12, 4, edges.num_relations, num_bases=2, aggr="sum")
    with torch.no_grad():
        twin.weight.copy_(conv.basis_KND)
        twin.comp.copy_(conv.coefficient_RK)
        twin.root.copy_(conv.root_ND)
        twin.bias.copy_(conv.bias_D)
    edges_G3 = torch.from_numpy(edges.edges_G3)
    expected = twin(None, edges_G3[:, [0, 2]].T, edges_G3[:, 1])
    found = conv(plan_messages(edges, np.arange(12)))
    torch.testing.assert_close(found, expected)


def test_relational_conv_equals_dense_loop_and_so_do_its_gradients() -> None:
    edges = twelve_nodes()
    conv = random_conv(edges)
    targets = np.array([7, 0, 5])
    rows: list[Tensor] = []
    for target in targets:
        row = conv.root_ND[target] + conv.bias_D
        for source, relation, end in edges.edges_G3:
            if end == target:
                for k in range(2):
                    row = row + conv.coefficient_RK[relation, k] * conv.basis_KND[k, source]
        rows.append(row)
    parameters = list(conv.parameters())
    expected = torch.autograd.grad(torch.stack(rows).square().sum(), parameters)
    found_TD = conv(plan_messages(edges, targets))
    torch.testing.assert_close(found_TD, torch.stack(rows))
    found = torch.autograd.grad(found_TD.square().sum(), parameters)
    for gradient, twin in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, twin)


def test_restricted_graph_gives_the_wanted_nodes_the_same_vectors() -> None:
    edges = relational_edges(
        graph_of([(0, 0, 1), (1, 1, 2), (2, 0, 3), (4, 1, 5)], 6, [1]), min_relation_edges=0
    )
    local, old_ids = restrict_edges(edges, np.array([1, 3]))
    assert old_ids.tolist() == [0, 1, 2, 3]
    conv = random_conv(local)
    local_TD = conv(plan_messages(local, np.searchsorted(old_ids, [3, 1])))
    whole = widen(conv, old_ids, edges.num_entities)
    torch.testing.assert_close(whole(plan_messages(edges, np.array([3, 1]))), local_TD)
    # Node 5 hears only of node 4 and itself; nothing was learnt of either.
    torch.testing.assert_close(whole(plan_messages(edges, np.array([5])))[0], conv.bias_D)


def test_attentive_pool_matches_hand_values_and_empty_set_is_zero() -> None:
    vectors = tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    logits = tensor([math.log(3.0), 0.0, 100.0])
    pooled = attentive_pool(vectors, logits, tensor([0, 1, 2]), tensor([0, 2, 0, 1, 0]))
    expected = tensor([[0.0, 0.0], [0.75, 0.5], [0.0, 0.0], [5.0, 5.0], [0.0, 0.0]])
    torch.testing.assert_close(pooled, expected)


def test_attentive_pool_equals_loop_and_so_do_its_gradients() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    rows = [[4, 1, 1], [], [0, 5]]
    loop = torch.stack(
        [
            (torch.softmax(logits[r], 0)[:, None] * vectors[r]).sum(0) if r else torch.zeros(3)
            for r in rows
        ]
    )
    pooled = attentive_pool(vectors, logits, tensor([4, 1, 1, 0, 5]), tensor([3, 0, 2]))
    torch.testing.assert_close(pooled, loop)
    expected = torch.autograd.grad(loop.square().sum(), [vectors, logits])
    found = torch.autograd.grad(pooled.square().sum(), [vectors, logits])
    for gradient, twin in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, twin)


def frozen_of_random_values(num_entities: int = 40, num_items: int = 20) -> FrozenRecommender:
    generator = torch.Generator().manual_seed(0)
    return FrozenRecommender(
        torch.randn(num_entities, 16, generator=generator),
        torch.randn(num_entities, generator=generator),
        torch.randperm(num_entities, generator=generator)[:num_items],
        torch.randn(num_items, generator=generator),
    )


def test_frozen_recommender_matches_hand_values() -> None:
    # Item 0 is entity 2 = (1, 0), item 1 is entity 0 = (0, 1); the context is entity 1 = (2, 0).
    frozen = FrozenRecommender(
        tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]]),
        tensor([0.3, 0.1, 0.2]),
        tensor([2, 0]),
        tensor([0.0, math.log(4.0)]),
    )
    log_probs = frozen(tensor([1]), tensor([0, 1]))
    e2 = math.exp(2.0)
    expected = tensor([[0.2, 0.8], [e2 / (e2 + 4), 4 / (e2 + 4)]]).log()
    torch.testing.assert_close(log_probs, expected)
    assert log_probs.dtype == torch.float32


def test_frozen_recommender_ignores_other_examples_of_the_batch() -> None:
    frozen = frozen_of_random_values()
    mine = [3, 17, 9]
    first = frozen(tensor([*mine, 1, 2, 4]), tensor([3, 1, 2, 0]))
    second = frozen(tensor([5, 6, *mine, 7, 8, 9, 10]), tensor([2, 3, 0, 4]))
    assert torch.equal(first[0], second[1])
    alone = frozen(tensor(mine), tensor([3]))
    torch.testing.assert_close(alone[0], first[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mistake", ["padded", "short"])
def test_frozen_recommender_refuses_input_that_does_not_fit(mistake: str) -> None:
    frozen = frozen_of_random_values()
    if mistake == "padded":
        with pytest.raises(ValueError, match=r"must be flat.*end to end"):
            frozen(tensor([[1, 2], [3, 0]]), tensor([2, 1]))
    else:
        with pytest.raises(ValueError, match=r"must sum to the number of entity_ids, 2, got 3"):
            frozen(tensor([1, 2]), tensor([3]))


def test_freeze_gives_the_log_probs_of_the_trained_model() -> None:
    graph = graph_of([(0, 0, 1), (1, 1, 2), (2, 0, 3), (4, 1, 5)], 6, [3, 1])
    edges = relational_edges(graph, min_relation_edges=0)
    local, old_ids = restrict_edges(edges, graph.item_entities_I)
    torch.manual_seed(0)
    model = Recommender(
        local.num_entities,
        local.num_relations,
        log_popularity_I=tensor([-1.0, -0.5]),
        hidden_size=4,
        num_bases=2,
        dropout=0.5,
    ).eval()
    plan = plan_messages(local, np.searchsorted(old_ids, graph.item_entities_I))
    logits = model(plan, tensor([0, 0, 1]), tensor([1, 0, 2]))
    frozen = freeze(model, edges, old_ids, graph.item_entities_I)
    log_probs = frozen(tensor([3, 3, 1]), tensor([1, 0, 2]))
    torch.testing.assert_close(log_probs, torch.log_softmax(logits, -1))


def test_ranking_scores_match_hand_values_and_ties_gain_nothing() -> None:
    logits = torch.zeros(2, 100)
    logits[0, :5] = 1.0
    # Row 0: rank 5 + 94 / 2 = 52. Row 1 after the change: rank 0.
    logits[1, 7] = 9.0
    scores = ranking_scores(logits, tensor([50, 7]))
    assert scores["recall_at_1"] == 0.5
    assert scores["recall_at_50"] == 0.5
    nll = math.log(5 * math.e + 95), math.log(99 + math.e**9) - 9.0
    assert scores["loss"] == pytest.approx(sum(nll) / 2, rel=1e-5)


def test_log_popularity_adds_one() -> None:
    torch.testing.assert_close(
        log_popularity(tensor([2, 2, 0]), 3), tensor([2 / 6, 1 / 6, 3 / 6]).log()
    )


def example(name: str, entities: list[int], gold: list[int]) -> Example:
    return Example(
        example_id=name,
        context_ids=np.array([0], dtype=np.int32),
        response_ids=np.array([0], dtype=np.int32),
        context_entities=np.array(entities, dtype=np.int32),
        context_words=np.empty(0, np.int32),
        gold_items=np.array(gold, dtype=np.int32),
    )


def test_to_samples_makes_one_per_mention_and_keeps_the_last_entities() -> None:
    examples = [example("a", [9, 4, 7], [1, 1]), example("b", [4], []), example("c", [], [0])]
    samples = to_samples(examples, np.array([4, 7, 9]), 2, name="train")
    assert samples.positions_E.tolist() == [0, 1, 0, 1]
    assert samples.lengths_S.tolist() == [2, 2, 0]
    assert samples.gold_S.tolist() == [1, 1, 0]
    picked = samples.select(tensor([2, 1]))
    assert picked.positions_E.tolist() == [0, 1]
    assert picked.lengths_S.tolist() == [0, 2]
    assert picked.gold_S.tolist() == [0, 1]


def test_to_samples_without_a_movie_is_an_error() -> None:
    with pytest.raises(ValueError, match="valid must mention at least one movie"):
        to_samples([example("b", [4], [])], np.array([4]), 2, name="valid")


def test_recommendation_config_refuses_values_out_of_range() -> None:
    with pytest.raises(ValueError, match="num_bases must be above 0, got 0"):
        RecommendationConfig(data="x", num_bases=0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        RecommendationConfig(data="x", dropout=1.0)


def small_config(prepared_dir: Path, **changes: int) -> RecommendationConfig:
    config = RecommendationConfig(
        data=str(prepared_dir),
        hidden_size=16,
        num_bases=2,
        min_relation_edges=0,
        epochs=8,
        batch_size=32,
        learning_rate=0.01,
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def teacher_dir(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommendation")
    fit_recommendation(small_config(prepared_dir), folder)
    return folder


def test_fit_recommendation_beats_popularity_and_exports_what_it_measured(
    prepared_dir: Path, teacher_dir: Path
) -> None:
    fit = json.loads((teacher_dir / "fit.json").read_text())
    assert fit["metrics"]["test"]["recall_at_10"] > 1.5 * fit["popularity"]["test"]["recall_at_10"]
    assert fit["metrics"]["test"]["loss"] < fit["popularity"]["test"]["loss"]
    losses = [entry["loss"] for entry in fit["history"]]
    assert losses[fit["best_epoch"] - 1] == min(losses)

    data = load_prepared(prepared_dir)
    recommender, card = load_recommender(teacher_dir)
    assert (card.kind, card.graph_digest) == ("recommendation", data.graph.digest)
    assert card.num_entities == data.graph.num_entities == recommender.num_entities
    assert card.vocabulary_digest == Vocabulary.load(teacher_dir).digest == data.vocabulary.digest
    entities, lengths, gold = [], [], []
    for example in data.examples("test"):
        for item in example.gold_items:
            entities += example.context_entities.tolist()
            lengths.append(len(example.context_entities))
            gold.append(int(item))
    log_probs = recommender(tensor(entities, dtype=torch.int64), tensor(lengths))
    scores = ranking_scores(log_probs, tensor(gold))
    assert scores == pytest.approx(fit["metrics"]["test"], rel=1e-4)


def test_fit_recommendation_with_the_same_seed_gives_the_same_weights(
    prepared_dir: Path, tmp_path: Path
) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        fit_recommendation(small_config(prepared_dir, epochs=1, seed=seed), tmp_path / name)
    digests = [
        load_recommender(tmp_path / name)[1].weights_digest for name in ("first", "again", "other")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_load_recommender_refuses_changed_weights(teacher_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(teacher_dir, tmp_path / "copy"))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match=r"model\.safetensors must have digest"):
        load_recommender(copy)


def test_load_recommender_refuses_a_config_of_another_shape_or_kind(
    teacher_dir: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(teacher_dir, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "hidden_size": 1}))
    with pytest.raises(ValueError, match="as its config says"):
        load_recommender(copy)
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ValueError, match="must be of a conkd-recommendation, got gpt2"):
        load_recommender(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match="must hold model_type and whole numbers"):
        load_recommender(copy)
    (copy / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json must hold the model's sizes"):
        load_recommender(copy)
