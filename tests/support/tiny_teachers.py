"""Frozen folders of tiny random teachers that share one vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from protos.teacher_pb2 import Description
from trainer.data.examples import Example
from trainer.data.tokenizer import train_tokenizer
from trainer.data.vocabulary import Vocabulary, build_vocabulary
from trainer.models.causal_lm import LanguageModelConfig, build_causal_lm, max_input_length
from trainer.models.frozen import write_card
from trainer.models.frozen_recommender import FrozenRecommender, export_recommender

NUM_ENTITIES = 50
NUM_WORDS = 9
TITLES = {str(100 + i): f"Film {i} ({1950 + i})" for i in range(30)}


def tiny_vocabulary(num_films: int = len(TITLES)) -> Vocabulary:
    titles = dict(list(TITLES.items())[:num_films])
    return build_vocabulary(train_tokenizer([], ["have you seen it, hello there"] * 3), titles)


def random_examples(
    vocabulary: Vocabulary, response_lengths: Sequence[int], *, seed: int
) -> list[Example]:
    """Examples that both teachers take; each with another id."""
    rng = np.random.default_rng(seed)

    def ids(high: int, size: int) -> np.ndarray:
        return rng.integers(0, high, size).astype(np.int32)

    num_ids = vocabulary.first_item_id + vocabulary.num_items
    return [
        Example(
            example_id=str(number),
            context_ids=ids(num_ids, 5),
            response_ids=ids(num_ids, length),
            context_entities=ids(NUM_ENTITIES, 3),
            context_words=ids(NUM_WORDS, 2),
            gold_items=np.empty(0, np.int32),
        )
        for number, length in enumerate(response_lengths)
    ]


SHAPE = LanguageModelConfig(num_layers=2, hidden_size=32, num_heads=2, max_positions=64)


def write_teachers(root: Path, vocabulary: Vocabulary) -> dict[str, Path]:
    """One of each kind: kind -> folder."""
    folders = {kind: root / kind for kind in ("dialogue", "recommendation")}
    write_dialogue_teacher(folders["dialogue"], vocabulary)
    write_recommendation_teacher(folders["recommendation"], vocabulary)
    return folders


def write_dialogue_teacher(
    folder: Path,
    vocabulary: Vocabulary,
    shape: LanguageModelConfig = SHAPE,
    *,
    actions: Sequence[str] = (),
) -> None:
    torch.manual_seed(0)
    model = build_causal_lm(shape, vocabulary).module
    model.save_pretrained(folder)
    vocabulary.save(folder)
    card = Description(
        kind="dialogue",
        vocabulary_digest=vocabulary.digest,
        max_tokens=max_input_length(model),
        capabilities=actions,
    )
    write_card(folder, card)


def write_recommendation_teacher(folder: Path, vocabulary: Vocabulary) -> None:
    generator = torch.Generator().manual_seed(0)
    recommender = FrozenRecommender(
        entities_ND=torch.randn(NUM_ENTITIES, 16, generator=generator),
        attention_N=torch.randn(NUM_ENTITIES, generator=generator),
        # Films may share an entity here: real dialogues have more films than that.
        items_I=torch.arange(vocabulary.num_items) % NUM_ENTITIES,
        item_bias_I=torch.randn(vocabulary.num_items, generator=generator),
        words_WD=torch.randn(NUM_WORDS, 16, generator=generator),
        word_attention_W=torch.randn(NUM_WORDS, generator=generator),
        gate_2D=torch.randn(32, generator=generator),
        gate_bias=torch.zeros(()),
    )
    folder.mkdir(parents=True, exist_ok=True)
    export_recommender(
        folder,
        recommender,
        vocabulary,
        graph_digest="tiny-graph",
        max_entities=20,
        max_words=12,
    )
