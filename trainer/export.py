"""Build a language model, train it, and leave it as a folder that others can load."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import torch

from trainer.config import RunConfig
from trainer.data.examples import Example
from trainer.data.prepare import PreparedData
from trainer.engine import Engine, on_all_ranks
from trainer.models.frozen import check_frozen
from trainer.models.frozen_recommender import FrozenRecommender, load_recommender
from trainer.models.language_model import LanguageModel, build_language_model, input_limits
from trainer.models.student import Student
from trainer.selection import Selection
from trainer.train import Teachers, train


def train_and_export(
    config: RunConfig,
    data: PreparedData,
    teachers: Teachers | None,
    folder: Path,
    *,
    rank: int,
    world_size: int,
) -> LanguageModel:
    """Train the configured language model; rank 0 writes it and its vocabulary to `folder`."""
    language_model, examples = on_all_ranks(lambda: _build(config, data, teachers))
    student = Student(language_model, loss_chunk_size=config.train.loss_chunk_size)
    engine = Engine(student, config, rank, world_size)
    selection = None
    if config.train.select == "best":
        selection = Selection(
            config,
            engine,
            language_model,
            vocabulary=data.vocabulary,
            examples=data.examples("valid"),
        )
    train(
        config,
        engine,
        vocabulary=data.vocabulary,
        examples=examples,
        limits=input_limits(language_model),
        teachers=teachers,
        selection=selection,
    )
    if selection is None:
        engine.export(language_model, folder)
    elif rank == 0:
        shutil.copytree(selection.folder, folder, dirs_exist_ok=True)
    if rank == 0:
        data.vocabulary.save(folder)
    return language_model


def with_steps(config: RunConfig, data: PreparedData) -> RunConfig:
    """The config with `train.steps` counted from `train.epochs`, if that is given."""
    if config.train.epochs is None:
        return config
    num_examples = data.manifest.splits["train"].responses
    steps = max(1, config.train.epochs * (num_examples // config.train.batch_size))
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))


def _build(
    config: RunConfig, data: PreparedData, teachers: Teachers | None
) -> tuple[LanguageModel, list[Example]]:
    torch.manual_seed(config.seed)
    item_source = _recommender(config.item_vectors, data)
    language_model = build_language_model(
        config.student,
        data.vocabulary,
        item_vectors_IK=None if item_source is None else item_source.items_ID,
        knowledge=_recommender(config.knowledge, data),
    )
    examples = data.examples("train")
    _check_length(config, input_limits(language_model).max_tokens, examples)
    if teachers is not None:
        _check_teacher(teachers.max_tokens, examples)
    return language_model, examples


def _recommender(folder: str | None, data: PreparedData) -> FrozenRecommender | None:
    """The frozen recommendation teacher of a folder, if one is named; it must know this data."""
    if folder is None:
        return None
    check_frozen(Path(folder), "recommendation", data.vocabulary.digest)
    recommender, card = load_recommender(Path(folder))
    if card.graph_digest != data.graphs_digest:
        raise ValueError(
            f"the recommendation model in {folder} must have the data's graph "
            f"{data.graphs_digest}, got {card.graph_digest}. Fit it on the same prepared data."
        )
    return recommender


def _check_length(config: RunConfig, max_length: int, examples: list[Example]) -> None:
    longest = max(len(e.context_ids) + len(e.response_ids) for e in examples)
    if longest > max_length:
        raise ValueError(
            f"student.max_positions must be at least {longest} for the examples in {config.data}, "
            f"got {max_length}. Prepare the data with a smaller --max-context."
        )


def _check_teacher(max_tokens: int, examples: list[Example]) -> None:
    longest = max(len(e.context_ids) + len(e.response_ids) - 1 for e in examples)
    if longest > max_tokens:
        raise ValueError(
            f"the dialogue teacher must take inputs of {longest} tokens for these examples, got "
            f"one that takes {max_tokens}. Serve one with a larger student.max_positions."
        )
