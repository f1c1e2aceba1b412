"""From a raw corpus to a prepared folder: vocabulary, graph, examples and the manifest of counts.

A prepared folder holds manifest.json, vocabulary.json, tokenizer/, graph.safetensors and one
JSON-lines file of examples per split. The manifest is removed first and written last, so a folder
with a manifest is a whole folder.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.progress import Progress
from transformers import PreTrainedTokenizerFast

from trainer.atomic import write_json
from trainer.data.examples import (
    Example,
    ExampleLimits,
    merge_turns,
    read_examples,
    to_examples,
    write_examples,
)
from trainer.data.knowledge_graph import (
    KnowledgeGraph,
    read_graph,
    read_movie_entities,
    readable_name,
)
from trainer.data.redial import Dialogue, read_dialogues
from trainer.data.vocabulary import Vocabulary, build_vocabulary

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1

Split = Literal["train", "valid", "test"]
Source = Literal["redial", "synthetic"]
SPLITS: tuple[Split, ...] = get_args(Split)
SOURCES: tuple[Source, ...] = get_args(Source)

Corpus = dict[Split, list[Dialogue]]
TokenizerMaker = Callable[[Corpus, Sequence[str]], PreTrainedTokenizerFast]
"""A tokenizer for the corpus and the movies' titles: loaded by name, or trained on them."""


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """What one split holds."""

    dialogues: int
    messages: int
    merged_turns: int
    responses: int
    """Examples: recommender turns that have an earlier turn and are not empty."""
    responses_with_item: int
    recommendation_samples: int
    """Movies mentioned in responses, with repeats."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared folder holds and was made from; manifest.json has these keys."""

    format_version: int
    source: Source
    splits: dict[str, SplitCounts]
    limits: ExampleLimits
    num_items: int
    num_entities: int
    num_relations: int
    num_triples: int
    base_vocab_size: int
    vocab_size: int
    vocabulary_digest: str
    graph_digest: str


@dataclass(frozen=True)
class PreparedData:
    """A prepared folder, with its vocabulary and graph in memory."""

    root: Path
    vocabulary: Vocabulary
    graph: KnowledgeGraph
    manifest: Manifest

    def examples(self, split: str) -> list[Example]:
        """All examples of "train", "valid" or "test", in the order of the dialogues.

        Raises:
            ValueError: if there is no such split, or its file is not the one the manifest counts.
        """
        if split not in self.manifest.splits:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split}.")
        path = self.root / f"{split}.jsonl"
        examples = read_examples(path)
        expected = self.manifest.splits[split].responses
        if len(examples) != expected:
            raise ValueError(
                f"{path} must hold {expected} examples as in {MANIFEST_NAME}, got {len(examples)}. "
                "Prepare the data again."
            )
        for example in examples:
            self._check_ids(path, example)
        return examples

    def _check_ids(self, path: Path, example: Example) -> None:
        limits = {
            "context_ids": (example.context_ids, self.vocabulary.size),
            "response_ids": (example.response_ids, self.vocabulary.size),
            "context_entities": (example.context_entities, self.graph.num_entities),
            "gold_items": (example.gold_items, self.vocabulary.num_items),
        }
        for name, (ids, limit) in limits.items():
            if ids.size and not (ids.min() >= 0 and ids.max() < limit):
                raise ValueError(
                    f"{path}: {name} of {example.example_id} must be in [0, {limit}), got "
                    f"{ids.min()}..{ids.max()}. Prepare the data again."
                )


def load_prepared(folder: Path | str) -> PreparedData:
    """A prepared folder, refused unless vocabulary and graph are those of its manifest."""
    root = Path(folder)
    manifest = _read_manifest(root / MANIFEST_NAME)
    vocabulary = Vocabulary.load(root)
    graph = KnowledgeGraph.load(root)
    for name, digest, expected in (
        ("vocabulary", vocabulary.digest, manifest.vocabulary_digest),
        ("graph", graph.digest, manifest.graph_digest),
    ):
        if digest != expected:
            raise ValueError(
                f"the {name} in {root} must have digest {expected} as in {MANIFEST_NAME}, got "
                f"{digest}. Prepare the data again."
            )
    return PreparedData(root=root, vocabulary=vocabulary, graph=graph, manifest=manifest)


def prepare(
    input_dir: Path,
    output_dir: Path,
    *,
    source: Source,
    make_tokenizer: TokenizerMaker,
    limits: ExampleLimits,
    progress: Progress,
) -> Manifest:
    """Read a raw corpus, check all of it, and write the prepared folder.

    Raises:
        FileNotFoundError: if the folder or one of its files is missing.
        ValueError: naming file and line or value, for the first thing that is wrong.
    """
    if not input_dir.is_dir():
        raise FileNotFoundError(f"--input must be a folder, got {input_dir}. Check the path.")
    movie_entities = read_movie_entities(input_dir)
    corpus: Corpus = {
        split: _read_split(input_dir, split, movie_entities, progress) for split in SPLITS
    }
    check_disjoint(corpus)
    titles = movie_titles(movie_entities, (d for split in SPLITS for d in corpus[split]))
    vocabulary = build_vocabulary(make_tokenizer(corpus, list(titles.values())), titles)
    graph = read_graph(input_dir, vocabulary.movie_ids)

    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / MANIFEST_NAME).unlink(missing_ok=True)
    vocabulary.save(output_dir)
    graph.save(output_dir)
    counts: dict[str, SplitCounts] = {}
    for split in SPLITS:
        examples: list[Example] = []
        for dialogue in progress.track(corpus[split], description=f"encoding {split}"):
            examples += to_examples(dialogue, vocabulary, graph, limits)
        write_examples(output_dir / f"{split}.jsonl", examples)
        counts[split] = count_split(corpus[split], examples)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source=source,
        splits=counts,
        limits=limits,
        num_items=vocabulary.num_items,
        num_entities=graph.num_entities,
        num_relations=graph.num_relations,
        num_triples=len(graph.edges_E3),
        base_vocab_size=vocabulary.base_size,
        vocab_size=vocabulary.size,
        vocabulary_digest=vocabulary.digest,
        graph_digest=graph.digest,
    )
    write_json(output_dir / MANIFEST_NAME, dataclasses.asdict(manifest))
    return manifest


def movie_titles(
    movie_entities: Mapping[str, str], dialogues: Iterable[Dialogue]
) -> dict[str, str]:
    """A title for every movie: the first one given in a dialogue, else its entity's name.

    A movie that has neither, because it is its own entity, is called "Movie <id>".
    """
    titles: dict[str, str] = {}
    for dialogue in dialogues:
        for movie_id, title in dialogue.titles.items():
            if title and movie_id in movie_entities:
                titles.setdefault(movie_id, title)
    for movie_id, entity in movie_entities.items():
        fallback = f"Movie {movie_id}" if entity == movie_id else readable_name(entity)
        titles.setdefault(movie_id, fallback)
    return titles


def check_disjoint(corpus: Corpus) -> None:
    """Raise ValueError if a dialogue is in two splits."""
    owner: dict[str, str] = {}
    for split, dialogues in corpus.items():
        for dialogue in dialogues:
            first = owner.setdefault(dialogue.dialogue_id, split)
            if first != split:
                raise ValueError(
                    f"dialogue {dialogue.dialogue_id} must be in one split, got it in {first} and "
                    f"{split}. Remove it from one of them."
                )


def count_split(dialogues: Sequence[Dialogue], examples: Sequence[Example]) -> SplitCounts:
    """Counts of one split, before and after the making of examples."""
    return SplitCounts(
        dialogues=len(dialogues),
        messages=sum(len(dialogue.messages) for dialogue in dialogues),
        merged_turns=sum(len(merge_turns(dialogue)) for dialogue in dialogues),
        responses=len(examples),
        responses_with_item=sum(example.is_recommendation for example in examples),
        recommendation_samples=sum(len(example.gold_items) for example in examples),
    )


def _read_split(
    folder: Path, split: Split, movie_ids: Mapping[str, str], progress: Progress
) -> list[Dialogue]:
    dialogues = read_dialogues(folder / f"{split}_data.jsonl", movie_ids=movie_ids)
    return list(progress.track(dialogues, total=None, description=f"reading {split}"))


def _read_manifest(path: Path) -> Manifest:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} must be a prepared folder, got no {MANIFEST_NAME} there. Make it with: "
            f"python -m trainer.data prepare --source SOURCE --input DIR --output {path.parent}"
        )
    try:
        record = json.loads(path.read_bytes())
        record["limits"] = ExampleLimits(**record["limits"])
        record["splits"] = {
            split: SplitCounts(**counts) for split, counts in record["splits"].items()
        }
        manifest = Manifest(**record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} must be a manifest of format_version {FORMAT_VERSION}, got {error!r:.100}. "
            "Prepare the data again."
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise ValueError(
            f"{path} must have format_version {FORMAT_VERSION}, got {manifest.format_version}. "
            "Prepare the data again."
        )
    return manifest
