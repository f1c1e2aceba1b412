from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support import tiny_teachers
from tests.support.kg_inputs import EXAMPLES, batch, given
from trainer.config.language_model import LanguageModelConfig
from trainer.data.model_input import InputLimits, SequenceInput, collate
from trainer.data.vocabulary import Vocabulary
from trainer.models.frozen_recommender import FrozenRecommender, load_recommender
from trainer.models.kg_language_model import KgLanguageModel
from trainer.models.kg_transformer import KgTransformer, sinusoids
from trainer.models.language_model import (
    build_language_model,
    load_language_model,
    write_language_model,
)

CONFIG = LanguageModelConfig(
    architecture="kgsf", num_layers=2, hidden_size=24, num_heads=2, max_positions=64, dropout=0.1
)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return tiny_teachers.tiny_vocabulary()


@pytest.fixture(scope="module")
def knowledge(
    tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary
) -> FrozenRecommender:
    folder = tmp_path_factory.mktemp("recommendation")
    tiny_teachers.write_recommendation_teacher(folder, vocabulary)
    return load_recommender(folder)[0]


@pytest.fixture
def model(vocabulary: Vocabulary, knowledge: FrozenRecommender) -> KgTransformer:
    torch.manual_seed(0)
    built = build_language_model(CONFIG, vocabulary, knowledge=knowledge)
    assert isinstance(built, KgLanguageModel)
    return built.module.eval()


def attend(attention: Any, queries_TD: Tensor, sources_SD: Tensor) -> Tensor:
    """Multi-head attention of one example, a query and a head at a time."""
    heads, size = attention.num_heads, queries_TD.shape[1]
    width = size // heads
    outputs = []
    for query_D in attention.query(queries_TD):
        parts = []
        for head in range(heads):
            mine = slice(head * width, (head + 1) * width)
            if len(sources_SD) == 0:
                parts.append(torch.zeros(width, dtype=queries_TD.dtype))
                continue
            keys_SW = attention.key(sources_SD)[:, mine]
            weights_S = torch.softmax(keys_SW @ query_D[mine] / math.sqrt(width), dim=0)
            parts.append(weights_S @ attention.value(sources_SD)[:, mine])
        outputs.append(attention.output(torch.cat(parts)))
    return torch.stack(outputs)


def slow_states(model: KgTransformer, example: SequenceInput) -> Tensor:
    """One example without a batch, a mask or a pad: the layers as KGSF's paper draws them."""
    size = model.shape.hidden_size

    def embed(ids: np.ndarray) -> Tensor:
        rows = model.tokens.weight[torch.from_numpy(ids.astype(np.int64))] * math.sqrt(size)
        return rows + sinusoids(len(ids), size)

    def fed(layer: Any, states: Tensor) -> Tensor:
        inner = torch.relu(layer.feed_forward.inner(states))
        return layer.fed.norm(states + layer.feed_forward.outer(inner))

    cut = len(example.tokens) - example.num_rows
    context = embed(example.tokens[:cut])
    encoder: list[Any] = list(model.encoder)
    decoder: list[Any] = list(model.decoder)
    for layer in encoder:
        if cut:
            context = layer.attended.norm(context + attend(layer.attention, context, context))
            context = fed(layer, context)
    entities = model.entity_projection(model.entities_NK[example.entities.astype(np.int64)])
    words = model.word_projection(model.words_WK[example.words.astype(np.int64)])
    states = embed(example.tokens[cut:])
    for layer in decoder:
        own = [
            attend(layer.self_attention, states[t : t + 1], states[: t + 1])[0]
            for t in range(len(states))
        ]
        states = layer.self_attended.norm(states + torch.stack(own))
        for attention, residual, source in zip(
            layer.attentions, layer.attended, (entities, words, context), strict=True
        ):
            states = residual.norm(states + attend(attention, states, source))
        states = fed(layer, states)
    return states


@torch.no_grad()
def test_response_states_equal_a_loop_without_batch_or_mask(model: KgTransformer) -> None:
    model = model.double()
    states_PD = model.response_states(batch(*EXAMPLES))
    twin_PD = torch.cat([slow_states(model, example) for example in EXAMPLES])
    torch.testing.assert_close(states_PD, twin_PD, rtol=1e-6, atol=1e-6)


def test_sinusoids_by_hand() -> None:
    # D = 4: the pairs turn at 1 and at 10,000^(-2/4) = .01 radians per position.
    at_three = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    assert sinusoids(4, 4)[3].tolist() == pytest.approx(at_three, abs=1e-6)


@torch.no_grad()
def test_changing_a_padded_token_changes_no_bit(model: KgTransformer) -> None:
    inputs = batch(*EXAMPLES)
    other = collate(EXAMPLES, pad_id=77)
    assert not torch.equal(inputs.input_ids_BL, other.input_ids_BL)
    assert torch.equal(model.response_states(inputs), model.response_states(other))


@torch.no_grad()
def test_changing_a_padded_entity_or_word_changes_no_bit(
    model: KgTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = batch(*EXAMPLES)
    before = model.response_states(inputs)
    padded = type(inputs.entities).padded

    def padded_with_others(bags: object) -> tuple[Tensor, Tensor]:
        ids_BS, is_id_BS = padded(bags)  # type: ignore[arg-type]
        assert (~is_id_BS).any()
        return ids_BS.masked_fill(~is_id_BS, 7), is_id_BS

    monkeypatch.setattr(type(inputs.entities), "padded", padded_with_others)
    assert torch.equal(model.response_states(inputs), before)


@torch.no_grad()
def test_states_do_not_depend_on_what_else_is_in_the_batch(model: KgTransformer) -> None:
    together = model.response_states(batch(*EXAMPLES))
    alone = torch.cat([model.response_states(batch(example)) for example in EXAMPLES])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("changed", range(1, 4))
def test_changing_a_response_token_changes_no_logit_at_or_before_it(
    model: KgTransformer, changed: int
) -> None:
    # Input t + 1 is the token that state t predicts.
    before = model.response_states(batch(EXAMPLES[0]))
    tokens = EXAMPLES[0].tokens.copy()
    tokens[-4 + changed] = 55
    other = given(tokens.tolist(), 4, [3, 4, 40], [1, 2, 2])
    after = model.response_states(batch(other))
    assert torch.equal(before[:changed], after[:changed])
    assert not torch.equal(before[changed], after[changed])


@torch.no_grad()
@pytest.mark.parametrize(
    "other",
    [
        given([5, 6, 7, 0, 8, 9, 10], 4, [3, 4, 41], [1, 2, 2]),
        given([5, 6, 7, 0, 8, 9, 10], 4, [3, 4, 40], [1, 2, 3]),
        given([5, 6, 1, 0, 8, 9, 10], 4, [3, 4, 40], [1, 2, 2]),
    ],
)
def test_entities_words_and_context_each_change_every_state(
    model: KgTransformer, other: SequenceInput
) -> None:
    before, after = (model.response_states(batch(each)) for each in (EXAMPLES[0], other))
    assert (before != after).any(-1).all()


@torch.no_grad()
def test_two_evaluations_are_identical_and_training_has_dropout(model: KgTransformer) -> None:
    inputs = batch(*EXAMPLES)
    assert torch.equal(model.response_states(inputs), model.response_states(inputs))
    model.train()
    assert not torch.equal(model.response_states(inputs), model.response_states(inputs))


@torch.no_grad()
def test_written_and_read_again_gives_the_same_bits(
    model: KgTransformer, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    write_language_model(tmp_path, KgLanguageModel(model))
    read = load_language_model(tmp_path, vocabulary)
    assert isinstance(read, KgLanguageModel)
    assert not read.module.training
    assert read.head.weight is read.module.tokens.weight
    inputs = batch(*EXAMPLES)
    assert torch.equal(read.response_states(inputs), model.response_states(inputs))
    assert torch.equal(read.head.weight, model.head.weight)
    assert read.limits == InputLimits(max_tokens=64, max_entities=50, max_words=256)


@torch.no_grad()
@pytest.mark.parametrize("casts_vectors", [False, True])
def test_bf16_model_stays_near_float32_also_where_the_vectors_are_not_cast(
    model: KgTransformer, vocabulary: Vocabulary, tmp_path: Path, casts_vectors: bool
) -> None:
    inputs = batch(*EXAMPLES)
    expected = model.response_states(inputs)
    if casts_vectors:
        model.bfloat16()
    else:
        # As DeepSpeed does it.
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
    states = model.response_states(inputs)
    assert states.dtype == torch.bfloat16
    torch.testing.assert_close(states.float(), expected, rtol=0.05, atol=0.1)
    write_language_model(tmp_path, KgLanguageModel(model))
    read = load_language_model(tmp_path, vocabulary)
    torch.testing.assert_close(read.response_states(inputs), expected, rtol=0.05, atol=0.1)


def test_knowledge_is_frozen_and_everything_else_learns(
    model: KgTransformer, knowledge: FrozenRecommender
) -> None:
    torch.testing.assert_close(model.entities_NK, knowledge.entities_ND, rtol=0, atol=0)
    assert not model.entities_NK.requires_grad
    loss = model.head(model.response_states(batch(*EXAMPLES))).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))


@torch.no_grad()
def test_without_knowledge_entities_and_words_are_not_taken(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    plain = build_language_model(CONFIG, vocabulary)
    assert plain.limits == InputLimits(max_tokens=64)
    write_language_model(tmp_path, plain)
    read = load_language_model(tmp_path, vocabulary)
    plain.module.eval()
    inputs = batch(*EXAMPLES)
    assert torch.equal(read.response_states(inputs), plain.response_states(inputs))


def test_knowledge_for_another_architecture_is_refused(
    vocabulary: Vocabulary, knowledge: FrozenRecommender
) -> None:
    with pytest.raises(ValueError, match="knowledge must be null unless"):
        build_language_model(LanguageModelConfig(), vocabulary, knowledge=knowledge)


def test_folder_of_another_vocabulary_or_without_vectors_is_refused(
    model: KgTransformer, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    write_language_model(tmp_path, KgLanguageModel(model))
    with pytest.raises(ValueError, match=f"must have {vocabulary.size - 1} output rows"):
        load_language_model(tmp_path, tiny_teachers.tiny_vocabulary(num_films=29))
    plain = KgTransformer(
        type(model.shape)(**{**vars(model.shape), "knowledge_size": 0}), dropout=0.0
    )
    write_language_model(tmp_path / "plain", KgLanguageModel(plain))
    (tmp_path / "plain" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"must hold .*entities_NK.* as its config says"):
        load_language_model(tmp_path, vocabulary)
