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

from tests.support.toy_corpus import write_toy_corpus
from trainer.config.pretrain import RecommendationConfig
from trainer.config.yaml_file import load_config
from trainer.data.__main__ import main as prepare_data
from trainer.data.examples import Example
from trainer.data.graph_files import read_graph_files
from trainer.data.knowledge_graph import KnowledgeGraph
from trainer.data.prepared import load_prepared
from trainer.data.vocabulary import Vocabulary
from trainer.data.word_graph import WordGraph
from trainer.evaluation.teacher_quality import (
    GoldSamples,
    gold_samples,
    recommender_scores,
)
from trainer.models.frozen_recommender import (
    Bags,
    FrozenRecommender,
    attentive_pool,
    load_recommender,
)
from trainer.models.recommender import Recommender, RecommenderShape, freeze, num_bytes
from trainer.models.rgcn import (
    MIN_RELATION_EDGES,
    RelationalConv,
    RelationalEdges,
    plan_messages,
    relational_edges,
    restrict_edges,
    widen,
)
from trainer.models.word_conv import WordConv
from trainer.pretrain.recommendation import fit_recommendation
from trainer.pretrain.recommendation_samples import (
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


def test_node_that_no_edge_reaches_is_encoded_by_its_loop() -> None:
    edges = relational_edges(graph_of([(0, 0, 1), (2, 0, 1)], 4, [0]), min_relation_edges=0)
    local, old_ids = restrict_edges(edges, np.array([3]))
    assert old_ids.tolist() == [3]
    assert random_conv(local)(plan_messages(local, np.array([0]))).shape == (1, 4)


@pytest.mark.everything
@pytest.mark.redial
def test_relational_edges_on_dbpedia_match_kgsf(redial_dir: Path) -> None:
    files = read_graph_files(redial_dir)
    graph = files.graph(sorted(files.movie_entities, key=int))
    # As KGSF allocates it: 64,368 rows for 64,362 entities.
    whole = dataclasses.replace(graph, num_entities=64_368)
    found = relational_edges(whole, min_relation_edges=MIN_RELATION_EDGES["kgsf"])
    assert (found.num_relations, len(found.edges_G3)) == (46, 365_028)


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
    pooled = attentive_pool(vectors, logits, bags([], [0, 1], [], [2], []))
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
    pooled = attentive_pool(vectors, logits, bags(*rows))
    torch.testing.assert_close(pooled, loop)
    expected = torch.autograd.grad(loop.square().sum(), [vectors, logits])
    found = torch.autograd.grad(pooled.square().sum(), [vectors, logits])
    for gradient, twin in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, twin)


def bags(*rows: list[int]) -> Bags:
    return Bags.of([np.array(row, np.int64) for row in rows])


def test_bags_select_equals_a_loop() -> None:
    rows = [[4, 1, 4], [], [7, 7], [2]]
    picked = bags(*rows).select(tensor([3, 0, 1]))
    assert (picked.ids_E.tolist(), picked.lengths_B.tolist()) == ([2, 4, 1, 4], [1, 3, 0])
    with pytest.raises(ValueError, match=r"must be flat.*end to end"):
        Bags(tensor([[1, 2], [3, 0]]), tensor([2, 1]))
    with pytest.raises(ValueError, match=r"must sum to the number of ids, 2, got 3"):
        Bags(tensor([1, 2]), tensor([3]))


def frozen_of_random_values() -> FrozenRecommender:
    generator = torch.Generator().manual_seed(0)
    return FrozenRecommender(
        entities_ND=torch.randn(40, 16, generator=generator),
        attention_N=torch.randn(40, generator=generator),
        items_I=torch.randperm(40, generator=generator)[:20],
        item_bias_I=torch.randn(20, generator=generator),
        words_WD=torch.randn(30, 16, generator=generator),
        word_attention_W=torch.randn(30, generator=generator),
        gate_2D=torch.randn(32, generator=generator),
        gate_bias=torch.randn((), generator=generator),
    )


def without_words(frozen: FrozenRecommender) -> FrozenRecommender:
    state = frozen.state_dict()
    return FrozenRecommender(
        **{**state, "words_WD": torch.zeros(0, 16), "word_attention_W": torch.zeros(0)}
    )


def test_frozen_recommender_matches_hand_values() -> None:
    # Item 0 is entity 2 = (1, 0), item 1 is entity 0 = (0, 1); the context is entity 1 = (2, 0) and
    # word 0 = (0, 4). The gate gives 3/4 to the entities where there is a word, 1/2 where not.
    frozen = FrozenRecommender(
        entities_ND=tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]]),
        attention_N=tensor([0.3, 0.1, 0.2]),
        items_I=tensor([2, 0]),
        item_bias_I=tensor([0.0, math.log(4.0)]),
        words_WD=tensor([[0.0, 4.0]]),
        word_attention_W=tensor([0.7]),
        gate_2D=tensor([0.0, math.log(3.0) / 4, 0.0, 0.0]),
        gate_bias=tensor(0.0),
    )
    log_probs = frozen(bags([], [1], [1]), bags([], [], [0, 0]))
    users = [[0.0, 0.0], [1.0, 0.0], [1.5, 1.0]]
    expected = tensor([[math.exp(u[0]), 4 * math.exp(u[1])] for u in users])
    torch.testing.assert_close(log_probs, (expected / expected.sum(-1, keepdim=True)).log())
    assert log_probs.dtype == torch.float32


def test_frozen_recommender_without_words_pools_entities_alone() -> None:
    frozen = without_words(frozen_of_random_values())
    assert frozen.num_words == 0
    users = attentive_pool(frozen.entities_ND, frozen.attention_N, bags([3, 5]))
    expected = torch.log_softmax(users @ frozen.items_ID.T + frozen.item_bias_I, -1)
    assert torch.equal(frozen(bags([3, 5]), bags([])), expected)


def test_frozen_recommender_ignores_other_examples_of_the_batch() -> None:
    frozen = frozen_of_random_values()
    mine, said = [3, 17, 9], [4, 4, 2]
    first = frozen(bags(mine, [1], [2, 4], []), bags(said, [], [7], [1]))
    second = frozen(bags([5, 6], mine, [], [7, 8, 9, 10]), bags([], said, [3, 5], []))
    assert torch.equal(first[0], second[1])
    alone = frozen(bags(mine), bags(said))
    torch.testing.assert_close(alone[0], first[0], rtol=1e-5, atol=1e-5)
    # Repeats count, as in KGSF.
    assert not torch.allclose(alone, frozen(bags(mine), bags([2, 4])))


def test_frozen_recommender_refuses_bags_of_unequal_numbers() -> None:
    with pytest.raises(ValueError, match="must be of as many examples, got 2 and 1"):
        frozen_of_random_values()(bags([1], [2]), bags([1]))


def small_world() -> tuple[KnowledgeGraph, RelationalEdges, WordGraph]:
    graph = graph_of([(0, 0, 1), (1, 1, 2), (2, 0, 3), (4, 1, 5)], 6, [3, 1])
    words = WordGraph(("a", "b", "c"), np.array([[0, 1], [1, 2]], np.int32))
    return graph, relational_edges(graph, min_relation_edges=0), words


def small_recommender(
    edges: RelationalEdges,
    words: WordGraph | None,
    num_targets: int,
    *,
    item_bias: bool = True,
) -> Recommender:
    torch.manual_seed(0)
    shape = RecommenderShape(
        hidden_size=4,
        num_bases=2,
        dropout=0.5,
        item_bias=item_bias,
    )
    popularity = tensor([-1.0, -0.5])
    return Recommender(shape, edges, words, log_popularity_I=popularity, num_targets=num_targets)


def test_equation_4_as_printed_has_no_bias() -> None:
    _, edges, _ = small_world()
    plan = plan_messages(edges, np.array([3, 1, 5]))
    paper = small_recommender(edges, None, 3, item_bias=False).eval()
    logits, _ = paper(plan, bags([0]), bags([]))
    torch.testing.assert_close(logits[0], paper.graph(plan)[:2] @ paper.graph(plan)[0])
    assert not paper.item_bias_I.requires_grad


@pytest.mark.parametrize("with_words", [False, True])
def test_freeze_gives_the_log_probs_of_the_trained_model(with_words: bool) -> None:
    graph, edges, words = small_world()
    local, old_ids = restrict_edges(edges, graph.item_entities_I)
    model = small_recommender(local, words if with_words else None, 2).eval()
    plan = plan_messages(local, np.searchsorted(old_ids, graph.item_entities_I))
    said = bags([0, 2, 0], [], [1])
    logits, _ = model(plan, bags([0], [], [0, 1]), said)
    frozen = freeze(model, edges, old_ids, graph.item_entities_I)
    log_probs = frozen(bags([3], [], [3, 1]), said)
    torch.testing.assert_close(log_probs, torch.log_softmax(logits, -1))


def test_word_conv_equals_the_normalised_adjacency_by_hand() -> None:
    _, _, words = small_world()
    torch.manual_seed(0)
    conv = WordConv(words, hidden_size=4)
    torch.nn.init.normal_(conv.conv.bias)
    adjacency = tensor([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]])
    scale = adjacency.sum(1).rsqrt()
    normalised = scale[:, None] * adjacency * scale
    expected = normalised @ conv.table_WH @ conv.conv.lin.weight.T + conv.conv.bias
    torch.testing.assert_close(conv(), expected)


def test_mim_loss_equals_a_loop_over_examples_and_nodes() -> None:
    _, edges, words = small_world()
    targets = np.array([3, 1, 5])
    model = small_recommender(edges, words, len(targets)).eval()
    torch.nn.init.normal_(model.mim_bias_T)
    plan = plan_messages(edges, targets)
    named, said = [[0, 2], [1], []], [[0, 1], [], [2]]
    _, loss = model(plan, bags(*named), bags(*said))
    vectors, table = model.graph(plan), model.encode_words()
    assert table is not None
    total = torch.zeros(())
    for entities, ids in zip(named, said, strict=True):
        pooled = torch.zeros(4)
        if ids:
            alpha = torch.softmax(model.word_attention(table)[ids], 0)
            pooled = alpha @ table[ids]
        for node in range(3):
            score = model.mim(pooled) @ vectors[node] + model.mim_bias_T[node]
            # Node 2 is no item: it is never a target.
            total = total + (score - float(node in entities and node < 2)) ** 2
    torch.testing.assert_close(loss, total / 3)


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
        context_words=np.array([2, 1, 1, 0], np.int32),
        gold_items=np.array(gold, dtype=np.int32),
    )


def test_to_samples_makes_one_per_mention_and_keeps_the_last_entities() -> None:
    examples = [example("a", [9, 4, 7], [1, 1]), example("b", [4], []), example("c", [], [0])]
    targets = np.array([4, 7, 9])
    samples = to_samples(examples, targets, max_entities=2, max_words=3, name="train")
    assert samples.entities.ids_E.tolist() == [0, 1, 0, 1]
    assert samples.entities.lengths_B.tolist() == [2, 2, 0]
    assert samples.words.ids_E.tolist() == [1, 1, 0] * 3
    assert samples.words.lengths_B.tolist() == [3, 3, 3]
    assert samples.gold_S.tolist() == [1, 1, 0]
    picked = samples.select(tensor([2, 1]))
    assert picked.entities.ids_E.tolist() == [0, 1]
    assert picked.entities.lengths_B.tolist() == [0, 2]
    assert picked.gold_S.tolist() == [0, 1]


def test_to_samples_without_a_movie_is_an_error() -> None:
    with pytest.raises(ValueError, match="valid must mention at least one movie"):
        to_samples(
            [example("b", [4], [])], np.array([4]), max_entities=2, max_words=2, name="valid"
        )


def test_recommendation_config_refuses_values_out_of_range() -> None:
    with pytest.raises(ValueError, match="num_bases must be above 0, got 0"):
        RecommendationConfig(data="x", num_bases=0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        RecommendationConfig(data="x", dropout=1.0)
    with pytest.raises(ValueError, match=r"seed must be in \[0, 4294967295\], got 1000000"):
        RecommendationConfig(data="x", seed=10**23)
    with pytest.raises(ValueError, match="max_words must be at most 65536, got 100000000"):
        RecommendationConfig(data="x", max_words=100_000_000)


def test_bytes_of_a_recommender_are_those_of_its_tables_and_matrices() -> None:
    graph, edges, words = small_world()
    for side in (None, words):
        model = small_recommender(edges, side, 3)
        counted = num_bytes(
            num_entities=graph.num_entities,
            num_words=0 if side is None else len(side.words),
            hidden_size=4,
            num_bases=2,
        )
        wide = sum(it.numel() for it in model.parameters() if it.dim() > 1 and min(it.shape) > 1)
        # Coefficients of relations are small, and no part of the sizes.
        assert counted == 4 * (wide - model.graph.coefficient_RK.numel())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("word_side=false", "word_side was removed, a teacher uses words if the prepared data"),
        ("distinct_words=true", "distinct_words was removed, words of a context are pooled with"),
        ("edge_filter=crslab", "edge_filter must be 'kgsf' or 'all', got 'crslab'"),
    ],
)
def test_recommendation_config_refuses_what_was_removed(
    tmp_path: Path, override: str, message: str
) -> None:
    (tmp_path / "config.yaml").write_text("data: x\n")
    with pytest.raises(ValueError, match=message):
        load_config(RecommendationConfig, tmp_path / "config.yaml", [override])


def small_config(prepared_dir: Path, **changes: int) -> RecommendationConfig:
    config = RecommendationConfig(
        data=str(prepared_dir),
        hidden_size=16,
        num_bases=2,
        edge_filter="all",
        mim_epochs=1,
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
    assert (card.kind, card.graph_digest) == ("recommendation", data.graphs_digest)
    assert (card.num_words, card.max_words) == (len(data.words.words), 256)
    mim = [entry["mim"] for entry in fit["mim"]["history"]]
    assert fit["mim"]["epochs"] == len(mim) == 1
    assert card.num_entities == data.graph.num_entities == recommender.num_entities
    assert card.vocabulary_digest == Vocabulary.load(teacher_dir).digest == data.vocabulary.digest
    samples = [(e, int(item)) for e in data.examples("test") for item in e.gold_items]
    log_probs = recommender(
        Bags.of([e.context_entities for e, _ in samples]),
        Bags.of([e.context_words for e, _ in samples]),
    )
    scores = ranking_scores(log_probs, tensor([item for _, item in samples]))
    measured = fit["metrics"]["test"]
    assert scores == pytest.approx({key: measured[key] for key in scores}, rel=1e-4)


def test_fit_recommendation_with_the_same_seed_gives_the_same_weights(
    prepared_dir: Path, tmp_path: Path
) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        fit_recommendation(small_config(prepared_dir, epochs=1, seed=seed), tmp_path / name)
    digests = [
        load_recommender(tmp_path / name)[1].weights_digest for name in ("first", "again", "other")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_fit_recommendation_on_a_corpus_without_word_relations_has_no_word_side(
    tmp_path: Path,
) -> None:
    write_toy_corpus(tmp_path / "raw")
    source = ("--source", "toy", "--plugin", "tests.support.toy_corpus")
    folders = ("--input", str(tmp_path / "raw"), "--output", str(tmp_path / "data"))
    prepare_data(["prepare", *source, *folders])
    fit_recommendation(small_config(tmp_path / "data", epochs=2), tmp_path / "teacher")
    recommender, card = load_recommender(tmp_path / "teacher")
    assert (recommender.num_words, card.num_words, card.max_words) == (0, 0, 0)
    assert "mim" not in json.loads((tmp_path / "teacher" / "fit.json").read_text())


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
    (copy / "config.json").write_text(json.dumps({**config, "distinct_words": 1}))
    with pytest.raises(ValueError, match=r"got distinct_words, which was removed\. Fit it again"):
        load_recommender(copy)
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ValueError, match="must be of a conkd-recommendation, got gpt2"):
        load_recommender(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json must be JSON"):
        load_recommender(copy)
    (copy / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json must hold the model's sizes"):
        load_recommender(copy)


def test_recommender_on_permuted_labels_is_no_better_than_popularity(
    prepared_dir: Path, teacher_dir: Path
) -> None:
    data = load_prepared(prepared_dir)
    train = data.examples("train")
    samples = gold_samples(train, data)

    def recall(of: GoldSamples) -> float:
        return recommender_scores(teacher_dir, of, data)["all_gold"]["recall_at_10"]

    generator = torch.Generator().manual_seed(0)
    permuted = [
        dataclasses.replace(
            samples, gold_S=samples.gold_S[torch.randperm(len(samples.gold_S), generator=generator)]
        )
        for _ in range(20)
    ]
    # The ten best known movies: no other list can do better on labels that say nothing.
    popularity = float(torch.bincount(samples.gold_S).topk(10).values.sum()) / len(samples.gold_S)
    assert recall(samples) > 2 * popularity
    assert np.mean([recall(each) for each in permuted]) < 1.02 * popularity
