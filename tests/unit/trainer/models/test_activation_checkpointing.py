"""Activations that are computed again in backward change neither loss nor gradient."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from tests.support.kg_inputs import EXAMPLES, batch
from tests.support.tiny_teachers import tiny_vocabulary, write_recommendation_teacher
from trainer.config.language_model import LanguageModelConfig
from trainer.engine.student import Student
from trainer.loss.soft_targets import SoftTargets
from trainer.models.frozen_recommender import load_recommender
from trainer.models.language_model import build_language_model

SHAPE = LanguageModelConfig(
    num_layers=2, hidden_size=24, num_heads=2, max_positions=64, dropout=0.1
)


def loss_gradients_and_kept_bytes(
    config: LanguageModelConfig, recommendation: Path
) -> tuple[Tensor, list[Tensor], int]:
    """Of one batch in training, with dropout, from the same seed."""
    vocabulary, inputs = tiny_vocabulary(), batch(*EXAMPLES)
    knowledge = load_recommender(recommendation)[0] if config.architecture == "kgsf" else None
    torch.manual_seed(0)
    model = build_language_model(config, vocabulary, knowledge=knowledge)
    model.module.train()
    student = Student(model, loss_chunk_size=4)
    num_positions = int(inputs.num_rows_B.sum())
    labels_P = torch.arange(num_positions) % vocabulary.size
    targets = SoftTargets(labels_P=labels_P, gold_P=torch.ones(num_positions))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, *_ = student(inputs, targets)
    gradients = torch.autograd.grad(loss, [p for p in model.module.parameters() if p.requires_grad])
    return loss, list(gradients), sum(kept.values())


@pytest.mark.parametrize("architecture", ["gpt2", "kgsf"])
def test_loss_and_gradients_are_those_of_a_run_that_keeps_its_activations(
    architecture: Literal["gpt2", "kgsf"], tmp_path: Path
) -> None:
    write_recommendation_teacher(tmp_path, tiny_vocabulary())
    plain = dataclasses.replace(SHAPE, architecture=architecture)
    lean = dataclasses.replace(plain, activation_checkpointing=True)
    loss, gradients, kept_bytes = loss_gradients_and_kept_bytes(plain, tmp_path)
    lean_loss, lean_gradients, lean_kept_bytes = loss_gradients_and_kept_bytes(lean, tmp_path)
    assert lean_loss.item() == loss.item()
    for mine, theirs in zip(lean_gradients, gradients, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-7)
    assert lean_kept_bytes < 0.8 * kept_bytes
