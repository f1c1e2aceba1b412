"""Hugging Face causal language models of several families as students."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from tests.support.tiny_teachers import tiny_vocabulary
from trainer.data.vocabulary import Vocabulary
from trainer.loss.soft_targets import SoftTargets
from trainer.loss.sparse_ce import SparseCrossEntropy
from trainer.models.causal_lm import (
    LanguageModelConfig,
    build_causal_lm,
    hidden_states,
    output_head,
    output_weight,
)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return tiny_vocabulary()


TINY_HF: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA: dict[str, Any] = {**TINY_HF, "intermediate_size": 48, "num_key_value_heads": 1}
NEO: dict[str, Any] = {
    **{name: value for name, value in TINY_HF.items() if name != "num_attention_heads"},
    **{"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
}
SHAPES: dict[str, PreTrainedConfig] = {
    "llama tied": LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "llama untied": LlamaConfig(**LLAMA, tie_word_embeddings=False),
    "qwen2 tied": Qwen2Config(**LLAMA, tie_word_embeddings=True),
    "gpt-neo": GPTNeoConfig(**NEO),
    "opt": OPTConfig(**TINY_HF, ffn_dim=48, word_embed_proj_dim=32),
    "gpt-neox untied": GPTNeoXConfig(**TINY_HF, intermediate_size=48),
}


def saved_model(folder: Path, shape: str, num_rows: int) -> None:
    torch.manual_seed(1)
    config = copy.deepcopy(SHAPES[shape])
    config.vocab_size = num_rows
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, 0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize("shape", SHAPES)
def test_causal_lm_of_any_family_has_the_loss_and_gradient_of_its_own_logits(
    shape: str, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    saved_model(tmp_path, shape, vocabulary.base_size)
    model = build_causal_lm(LanguageModelConfig(pretrained=str(tmp_path)), vocabulary).module.eval()
    ids = torch.tensor([[1, 5, vocabulary.first_item_id, 7, vocabulary.rec_id, 9]])
    targets = SoftTargets(labels_P=ids[0, 1:], gold_P=torch.ones(5))
    fused, *_ = SparseCrossEntropy(output_head(model))(hidden_states(model, ids)[0, :-1], targets)
    plain = F.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum")
    parameters = [each for each in model.parameters() if each.requires_grad]
    assert fused.item() == pytest.approx(plain.item(), rel=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(fused, parameters, allow_unused=True),
        torch.autograd.grad(plain, parameters, allow_unused=True),
        strict=True,
    ):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("shape", ["llama tied", "llama untied"])
def test_new_rows_of_input_and_output_start_around_the_mean_of_their_own(
    shape: str, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    saved_model(tmp_path, shape, vocabulary.base_size)
    model = build_causal_lm(LanguageModelConfig(pretrained=str(tmp_path)), vocabulary).module
    for weight in (output_weight(model), model.get_input_embeddings().weight):
        assert isinstance(weight, torch.Tensor)
        rows = weight.detach()
        base = rows[: vocabulary.base_size]
        special = rows[vocabulary.rec_id :]
        assert rows.shape[0] == vocabulary.size
        assert float((special - base.mean(0)).square().mean().sqrt()) == pytest.approx(
            0.1 * float((base - base.mean(0)).square().mean().sqrt()), rel=0.3
        )
    is_tied = output_weight(model) is model.get_input_embeddings().weight
    assert is_tied == (shape == "llama tied")
