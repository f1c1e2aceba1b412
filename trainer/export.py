"""Build a language model, train it, and leave it as a folder that others can load."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trainer.config import RunConfig
from trainer.data.examples import Example
from trainer.data.loader import teacher_input
from trainer.data.prepare import PreparedData
from trainer.engine import Engine, on_all_ranks
from trainer.models.causal_lm import build_causal_lm, max_input_length
from trainer.models.frozen import check_frozen
from trainer.models.frozen_recommender import load_recommender
from trainer.models.student import Student
from trainer.train import Teachers, train


def train_and_export(
    config: RunConfig,
    data: PreparedData,
    teachers: Teachers | None,
    folder: Path,
    *,
    rank: int,
    world_size: int,
) -> None:
    """Train the configured language model; rank 0 writes it and its vocabulary to `folder`."""
    language_model, examples = on_all_ranks(lambda: _build(config, data, teachers))
    student = Student(language_model, loss_chunk_size=config.train.loss_chunk_size)
    engine = Engine(student, config, rank, world_size)
    train(config, engine, vocabulary=data.vocabulary, examples=examples, teachers=teachers)
    engine.export(language_model, folder)
    if rank == 0:
        data.vocabulary.save(folder)


def _build(
    config: RunConfig, data: PreparedData, teachers: Teachers | None
) -> tuple[PreTrainedModel, list[Example]]:
    torch.manual_seed(config.seed)
    language_model = build_causal_lm(config.student, data.vocabulary, _item_vectors(config, data))
    examples = data.examples("train")
    _check_length(config, max_input_length(language_model), examples)
    if teachers is not None:
        _check_teacher(teachers.max_tokens, examples)
    return language_model, examples


def _item_vectors(config: RunConfig, data: PreparedData) -> Tensor | None:
    if config.item_vectors is None:
        return None
    folder = Path(config.item_vectors)
    check_frozen(folder, "recommendation", data.vocabulary.digest)
    recommender, _ = load_recommender(folder)
    return recommender.items_ID


def _check_length(config: RunConfig, max_length: int, examples: list[Example]) -> None:
    longest = max(len(e.context_ids) + len(e.response_ids) for e in examples)
    if longest > max_length:
        raise ValueError(
            f"student.max_positions must be at least {longest} for the examples in {config.data}, "
            f"got {max_length}. Prepare the data with a smaller --max-context."
        )


def _check_teacher(max_tokens: int, examples: list[Example]) -> None:
    longest = max(len(teacher_input(example)) for example in examples)
    if longest > max_tokens:
        raise ValueError(
            f"the dialogue teacher must take inputs of {longest} tokens for these examples, got "
            f"one that takes {max_tokens}. Serve one with a larger student.max_positions."
        )
