"""Language models over words and items: which rows are kept, and how new ones start."""

from pathlib import Path

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from tests.support.geometry import assert_same_geometry
from tests.support.little_room import little_room
from tests.support.tiny_teachers import tiny_vocabulary
from trainer.common.errors import MissingError
from trainer.data.vocabulary import Vocabulary
from trainer.models.causal_lm import (
    MAX_PADDING_ROWS,
    CausalLanguageModel,
    LanguageModelConfig,
    build_causal_lm,
    check_head,
    max_input_length,
    output_weight,
)
from trainer.models.language_model import write_language_model

SHAPE = LanguageModelConfig(num_layers=1, hidden_size=64, num_heads=2, max_positions=16)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return tiny_vocabulary()


def saved_gpt2(folder: Path, num_rows: int) -> torch.Tensor:
    """Write a GPT-2 of so many rows, whose mean is far from 0; returns its rows."""
    torch.manual_seed(1)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=num_rows, n_positions=16, n_embd=64, n_layer=1, n_head=2)
    )
    rows = output_weight(model)
    torch.nn.init.normal_(rows, mean=0.5, std=0.1)
    model.save_pretrained(folder)
    return rows.detach().clone()


def test_random_model_starts_with_logits_of_unit_variance(vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    model = build_causal_lm(SHAPE, vocabulary).module
    base = output_weight(model).detach()[: vocabulary.base_size]
    assert base.std().item() == pytest.approx(1 / 8, rel=0.02)


def test_item_rows_share_a_direction_that_words_do_not_have(vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    model = build_causal_lm(SHAPE, vocabulary).module
    rows = output_weight(model).detach()
    items = rows[vocabulary.first_item_id : vocabulary.rec_id]
    words = rows[: vocabulary.base_size]
    shared = items.mean(0)
    # 64 draws of variance 1 / 64 each, and 1 / 30 of that of the rows' own part.
    assert shared.norm().item() == pytest.approx(1.0, abs=0.35)
    assert (items @ shared).mean() > 10 * (words @ shared).mean().abs()
    assert (items - shared).std().item() == pytest.approx(1 / 8, rel=0.1)


@pytest.mark.parametrize("width", [16, 64])
def test_item_rows_start_with_the_geometry_of_the_item_vectors(
    vocabulary: Vocabulary, width: int
) -> None:
    torch.manual_seed(0)
    vectors = 3.0 + 5.0 * torch.randn(vocabulary.num_items, width)
    rows = output_weight(build_causal_lm(SHAPE, vocabulary, vectors).module).detach()
    items = rows[vocabulary.first_item_id : vocabulary.rec_id]
    assert (items - items.mean(0)).square().mean().sqrt().item() == pytest.approx(1 / 8, rel=0.02)
    assert_same_geometry(items, vectors)
    # They share a direction all the same.
    assert items.mean(0).norm().item() == pytest.approx(1.0, abs=0.35)


def test_item_vectors_that_do_not_differ_are_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="must be finite and differ from each other"):
        build_causal_lm(SHAPE, vocabulary, torch.ones(vocabulary.num_items, 8))


def test_item_vectors_for_a_pretrained_model_start_its_new_rows(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    base = saved_gpt2(tmp_path, vocabulary.base_size)
    torch.manual_seed(0)
    vectors = torch.randn(vocabulary.num_items, 16)
    config = LanguageModelConfig(pretrained=str(tmp_path))
    rows = output_weight(build_causal_lm(config, vocabulary, vectors).module).detach()
    assert torch.equal(rows[: vocabulary.base_size], base)
    items = rows[vocabulary.first_item_id : vocabulary.rec_id]
    assert_same_geometry(items, vectors)


def test_item_vectors_for_a_model_that_has_its_items_are_refused(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    saved_gpt2(tmp_path, vocabulary.size)
    vocabulary.save(tmp_path)
    vectors = torch.randn(vocabulary.num_items, 8)
    with pytest.raises(ValueError, match="item_vectors must be null for"):
        build_causal_lm(LanguageModelConfig(pretrained=str(tmp_path)), vocabulary, vectors)


def test_pretrained_model_keeps_base_rows_and_new_ones_start_around_their_mean(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    base = saved_gpt2(tmp_path, vocabulary.base_size)
    torch.manual_seed(0)
    model = build_causal_lm(LanguageModelConfig(pretrained=str(tmp_path)), vocabulary).module
    rows = output_weight(model).detach()
    assert rows.shape[0] == vocabulary.size
    assert torch.equal(rows[: vocabulary.base_size], base)
    special = rows[vocabulary.rec_id :]
    assert special.mean().item() == pytest.approx(0.5, abs=0.01)
    assert (special - base.mean(0)).std().item() == pytest.approx(0.01, rel=0.2)
    assert model.get_parameter("transformer.wte.weight") is output_weight(model)


def test_pretrained_model_with_items_keeps_every_row(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    whole = saved_gpt2(tmp_path, vocabulary.size)
    vocabulary.save(tmp_path)
    model = build_causal_lm(LanguageModelConfig(pretrained=str(tmp_path)), vocabulary).module
    assert torch.equal(output_weight(model).detach(), whole)


def test_model_to_be_trained_has_its_dropout_on(tmp_path: Path, vocabulary: Vocabulary) -> None:
    saved_gpt2(tmp_path, vocabulary.size)
    for config in (
        LanguageModelConfig(pretrained=str(tmp_path)),
        LanguageModelConfig(num_layers=1, hidden_size=8, num_heads=1, max_positions=16),
    ):
        assert all(
            module.training for module in build_causal_lm(config, vocabulary).module.modules()
        )
    with pytest.raises(
        ValueError, match=r"student\.dropout must be 0 and student\.architecture gpt2 beside"
    ):
        LanguageModelConfig(pretrained=str(tmp_path), dropout=0.1)


@pytest.mark.parametrize("beyond", [-1, MAX_PADDING_ROWS + 1])
def test_pretrained_model_of_another_tokenizer_is_refused(
    beyond: int, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    saved_gpt2(tmp_path, vocabulary.base_size + beyond)
    rule = f"must have a row for each of the tokenizer's {vocabulary.base_size} tokens"
    with pytest.raises(ValueError, match=rule):
        build_causal_lm(LanguageModelConfig(pretrained=str(tmp_path)), vocabulary)


@pytest.mark.parametrize("padding", [1, "as many as items", 1000])
def test_padding_rows_of_a_pretrained_model_are_left_out(
    padding: int | str, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    number = padding if isinstance(padding, int) else vocabulary.size - vocabulary.base_size
    saved = saved_gpt2(tmp_path, vocabulary.base_size + number)
    config = LanguageModelConfig(pretrained=str(tmp_path))
    rows = output_weight(build_causal_lm(config, vocabulary).module).detach()
    assert rows.shape[0] == vocabulary.size
    assert torch.equal(rows[: vocabulary.base_size], saved[: vocabulary.base_size])
    both = min(len(saved), len(rows))
    new = slice(vocabulary.base_size, both)
    assert not (saved[new] == rows[new]).all(-1).any()


def test_model_with_a_soft_cap_on_its_logits_is_refused() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.05,
        initializer_range=0.5,
        pad_token_id=0,
    )
    with pytest.raises(ValueError, match="hidden states times output weight, got a difference"):
        check_head(Gemma2ForCausalLM(config))


def test_model_without_a_number_of_positions_is_refused() -> None:
    config = BloomConfig(vocab_size=40, hidden_size=16, n_layer=1, n_head=2)
    with pytest.raises(ValueError, match="must give max_position_embeddings, got None"):
        max_input_length(BloomForCausalLM(config))


def test_model_that_finds_no_room_is_an_error_that_a_user_can_mend(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    model = build_causal_lm(SHAPE, vocabulary).module
    message = f"{tmp_path} must take the model, got: .* Make room"
    with little_room(4096), pytest.raises(OSError, match=message):
        write_language_model(tmp_path, CausalLanguageModel(model))


def test_pretrained_model_with_pytorchs_own_files_alone_loads(tmp_path: Path) -> None:
    vocabulary = tiny_vocabulary()
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=vocabulary.base_size, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    )
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    built = build_causal_lm(LanguageModelConfig(pretrained=str(tmp_path)), vocabulary).module
    rows = output_weight(built)[: vocabulary.base_size]
    assert torch.equal(rows, model.transformer.wte.weight)


@pytest.mark.parametrize("name", ["nope/nothing", "no name/at all/x", "{empty}"])
def test_pretrained_model_that_is_not_there_is_one_error(name: str, tmp_path: Path) -> None:
    given = name.format(empty=tmp_path)
    with pytest.raises(MissingError, match=f"student.pretrained must be .* got {given}: "):
        build_causal_lm(LanguageModelConfig(pretrained=given), tiny_vocabulary())
