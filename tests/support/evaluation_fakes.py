"""A prepared folder, a run and models of the smallest size, for the tests of trainer/evaluation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from protos.teacher_pb2 import Description
from trainer.common.atomic import write_json, write_text
from trainer.config.distill import DistillConfig
from trainer.config.language_model import LanguageModelConfig
from trainer.config.run import RunConfig
from trainer.config.yaml_file import to_yaml
from trainer.data.dialogue import Dialogue, Message
from trainer.data.dialogue_examples import ExampleOptions
from trainer.data.examples import Example, write_examples
from trainer.data.joint_tokenizer import write_joint_tokenizer
from trainer.data.kgsf_counts import KgsfCounts
from trainer.data.knowledge_graph import KnowledgeGraph
from trainer.data.manifest import FORMAT_VERSION, Manifest, SplitCounts
from trainer.data.oddities import Oddities
from trainer.data.prepared import PreparedData, load_prepared
from trainer.data.stored_dialogues import dialogues_name, store_dialogues, write_dialogues
from trainer.data.vocabulary import Vocabulary, build_vocabulary
from trainer.data.word_graph import WordGraph
from trainer.models.causal_lm import CausalLanguageModel, build_causal_lm
from trainer.models.frozen import write_card
from trainer.models.frozen_recommender import FrozenRecommender, export_recommender
from trainer.models.language_model import (
    LanguageModel,
    build_language_model,
    write_language_model,
)
from trainer.models.student_card import StudentCard, write_student_card
from trainer.models.turn_classifier import ClassifierShape, TurnClassifier, export_classifier
from trainer.telemetry.run_totals import RUN_TOTALS
from trainer.telemetry.step_metrics import STEP_METRICS

NUM_ITEMS = 80


def tiny_vocabulary(num_items: int = NUM_ITEMS) -> Vocabulary:
    """One token per byte, an end of text, and films 100, 101, ..."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    return build_vocabulary(fast, {str(100 + i): f"Film {i} (19{i:02d})" for i in range(num_items)})


SAID = (("hi", ()), ("a film?", (3,)), ("more", (3, 4)), ("and?", ()), ("x", (7,)), ("bye", ()))
"""What the seeker says in each of six dialogues, and the items that he names."""
GOLD = ((), (4,), (3, 9), (70,), (9, 9), ())
"""The items of each answer."""


def tiny_dialogues() -> list[Dialogue]:
    """One question and one answer each; the fifth answer is two messages."""
    dialogues = []
    for index, ((text, mentioned), items) in enumerate(zip(SAID, GOLD, strict=True)):
        said = [f"see{_mentions(items)}"] if index != 4 else ["see@109", "@109"]
        messages = (
            Message("seeker", f"{text}{_mentions(mentioned)}", f"{index}0"),
            *(Message("recommender", it, f"{index}{n}") for n, it in enumerate(said, start=1)),
        )
        titles = {str(100 + item): "" for item in (*mentioned, *items)}
        dialogues.append(Dialogue(f"d{index}", messages, titles))
    return dialogues


def _mentions(items: Sequence[int]) -> str:
    return "".join(f"@{100 + item}" for item in items)


def tiny_examples(vocabulary: Vocabulary) -> list[Example]:
    """Six responses: four recommend, one of these repeats the context; entity = item + 5."""
    examples = []
    for index, ((text, mentioned), items) in enumerate(zip(SAID, GOLD, strict=True)):
        context = [
            *vocabulary.encode([text]),
            *(vocabulary.item_token(i) for i in mentioned),
            vocabulary.eos_id,
        ]
        response = [
            *vocabulary.encode(["see"]),
            *(vocabulary.item_token(i) for i in items[:1]),
            vocabulary.eos_id,
        ]
        examples.append(
            Example(
                example_id=f"d{index}:1",
                context_ids=np.array(context, np.int32),
                response_ids=np.array(response, np.int32),
                context_entities=np.array([1, *(i + 5 for i in mentioned)], np.int32),
                context_words=np.array([0], np.int32),
                gold_items=np.array(items, np.int32),
                is_recommendation=bool(items),
            )
        )
    return examples


def write_tiny_data(folder: Path) -> PreparedData:
    """A whole prepared folder; its three splits are the same."""
    vocabulary = tiny_vocabulary()
    graph = KnowledgeGraph(
        edges_E3=np.array([[0, 0, 1]], np.int32),
        num_entities=NUM_ITEMS + 5,
        num_relations=1,
        item_entities_I=np.arange(5, NUM_ITEMS + 5, dtype=np.int32),
    )
    examples = tiny_examples(vocabulary)
    counts = SplitCounts(
        dialogues=6,
        messages=13,
        merged_turns=12,
        responses=len(examples),
        responses_with_item=4,
        recommendation_samples=6,
        context_entities=11,
        oddities=Oddities(
            skipped_records=0,
            dialogues_without_example=0,
            dialogues_without_answers=0,
            unknown_mentions=0,
            repeated_keys=0,
            repeated_messages=0,
            repeated_mentions=0,
            items_past_the_cut=0,
        ),
        as_kgsf=KgsfCounts(
            responses_with_item=4,
            responses_with_linked_item=4,
            recommendation_samples=6,
            cases=8,
        ),
    )
    words = WordGraph(("film", "movie"), np.array([[0, 1]], np.int32))
    vocabulary.save(folder)
    graph.save(folder)
    words.save(folder)
    digests = {}
    stored = store_dialogues(tiny_dialogues(), examples)
    for split in ("train", "valid", "test"):
        write_examples(folder / f"{split}.jsonl", examples)
        digests[split] = write_dialogues(folder / dialogues_name(split), stored)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source="synthetic",
        splits=dict.fromkeys(("train", "valid", "test"), counts),
        options=ExampleOptions(),
        num_items=NUM_ITEMS,
        num_entities=graph.num_entities,
        num_relations=1,
        num_triples=1,
        base_vocab_size=vocabulary.base_size,
        vocab_size=vocabulary.size,
        vocabulary_digest=vocabulary.digest,
        graph_digest=graph.digest,
        num_words=len(words.words),
        num_word_edges=len(words.edges_E2),
        words_digest=words.digest,
        drawn_valid_ids=[],
        dialogue_digests=digests,
        skipped=[],
        twins=[],
        command="python -m trainer.data prepare",
    )
    write_json(folder / "manifest.json", dataclasses.asdict(manifest))
    return load_prepared(folder)


def tiny_model(vocabulary: Vocabulary, seed: int) -> CausalLanguageModel:
    """A random GPT-2 whose scores lie far apart, and which often names films and ends."""
    torch.manual_seed(seed)
    shape = LanguageModelConfig(num_layers=2, hidden_size=32, num_heads=2, max_positions=96)
    model = build_causal_lm(shape, vocabulary)
    module = model.module.eval()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "ln_" not in name:
                weight.mul_(12.0)
        weight = model.head.weight
        weight[vocabulary.first_item_id : vocabulary.rec_id] *= 1.3
        weight[vocabulary.eos_id] *= 1.6
    return model


def tiny_kg_transformer(vocabulary: Vocabulary, seed: int) -> LanguageModel:
    """The same of KGSF's transformer, without entities and words."""
    torch.manual_seed(seed)
    shape = LanguageModelConfig(
        architecture="kgsf", num_layers=2, hidden_size=32, num_heads=2, max_positions=96
    )
    model = build_language_model(shape, vocabulary)
    with torch.no_grad():
        weight = model.head.weight
        weight[vocabulary.first_item_id : vocabulary.rec_id] *= 1.3
        weight[vocabulary.eos_id] *= 4.0
    model.module.eval()
    return model


def write_student(
    folder: Path,
    vocabulary: Vocabulary,
    seed: int,
    *,
    action_tokens: bool = True,
    classifier: str | None = None,
) -> None:
    """An exported student as trainer/export.py leaves it."""
    write_language_model(folder, tiny_model(vocabulary, seed))
    vocabulary.save(folder)
    write_joint_tokenizer(folder, vocabulary, max_tokens=96)
    card = StudentCard(
        vocabulary_digest=vocabulary.digest,
        graph_digest="",
        action_tokens=action_tokens,
        classifier=classifier,
        gamma=0.4,
        steps=4,
    )
    write_student_card(folder, card)


def write_classifier(folder: Path, vocabulary: Vocabulary, seed: int) -> TurnClassifier:
    """A frozen turn classifier with random weights, spread so that its answers differ."""
    torch.manual_seed(seed)
    classifier = TurnClassifier(
        ClassifierShape(
            vocab_size=vocabulary.size, hidden_size=16, num_layers=1, num_heads=2, max_tokens=32
        )
    )
    with torch.no_grad():
        classifier.tokens.weight.mul_(50.0)
    export_classifier(folder, classifier.eval(), vocabulary)
    return classifier


def write_dialogue_teacher(
    folder: Path, vocabulary: Vocabulary, seed: int, *, actions: Sequence[str] = ()
) -> None:
    """A frozen dialogue teacher."""
    tiny_model(vocabulary, seed).module.save_pretrained(folder)
    vocabulary.save(folder)
    card = Description(
        kind="dialogue",
        vocabulary_digest=vocabulary.digest,
        max_tokens=96,
        capabilities=actions,
    )
    write_card(folder, card)


def write_recommender(folder: Path, data: PreparedData, seed: int) -> Path:
    """A frozen recommendation teacher that reads entities and words."""
    generator = torch.Generator().manual_seed(seed)
    recommender = FrozenRecommender(
        entities_ND=torch.randn(data.graph.num_entities, 8, generator=generator),
        attention_N=torch.randn(data.graph.num_entities, generator=generator),
        items_I=torch.from_numpy(data.graph.item_entities_I.astype(np.int64)),
        item_bias_I=torch.randn(NUM_ITEMS, generator=generator),
        words_WD=torch.randn(2, 8, generator=generator),
        word_attention_W=torch.randn(2, generator=generator),
        gate_2D=torch.randn(16, generator=generator),
        gate_bias=torch.zeros(()),
    )
    export_recommender(
        folder,
        recommender,
        data.vocabulary,
        graph_digest=data.graphs_digest,
        max_entities=9,
        max_words=9,
    )
    return folder


def write_run(
    folder: Path,
    vocabulary: Vocabulary,
    seed: int,
    *,
    teachers: bool,
    item_vectors: str | None = None,
) -> None:
    """A finished run of four steps with its exported student."""
    write_student(folder / "model", vocabulary, seed)
    config = RunConfig(
        data="data",
        output=str(folder),
        item_vectors=item_vectors,
        distill=DistillConfig(gamma=0.4 if teachers else 0.0),
    )
    write_text(folder / "config.yaml", to_yaml(config))
    lines: list[dict[str, Any]] = [{"event": "start", "world_size": 1}]
    for step in range(1, 5):
        line: dict[str, Any] = dict.fromkeys(it.name for it in STEP_METRICS) | {
            "step": step,
            "loss": 5.0 / step,
            "nll": 4.0 / step,
            "step_s": 0.5,
            "tokens_per_s": 100.0,
            "teacher_wait_s": 0.05 if teachers else None,
        }
        if teachers:
            line["gate_histogram_item_steps"] = [0] * 19 + [3]
            line["gate_histogram_word_steps"] = [7] + [0] * 19
        lines.append(line)
    lines.append(
        dict.fromkeys(it.name for it in RUN_TOTALS)
        | {
            "event": "end",
            "steps": 4,
            "seconds": 2.0,
            "tokens_per_s": 100.0,
            "teacher_requests": 16 if teachers else 0,
            "teacher_wait_fraction": 0.1 if teachers else None,
            "wire_bytes_per_position": 96.0 if teachers else None,
            "gate_mean_item_steps": 0.9 if teachers else None,
            "gate_mean_word_steps": 0.02 if teachers else None,
        }
    )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_text(folder / "metrics.jsonl", text)
