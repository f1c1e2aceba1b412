"""From a raw corpus to a prepared folder: vocabulary, graphs, examples and the manifest of counts.

A prepared folder holds manifest.json, vocabulary.json, tokenizer/, graph.safetensors,
words.safetensors and one JSON-lines file of examples per split. The manifest is removed first and
written last, so a folder with a manifest is a whole folder.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.progress import Progress
from transformers import PreTrainedTokenizerFast

from protos.fingerprint import digest_strings
from trainer.common.atomic import write_json
from trainer.data.entity_linker import build_linker
from trainer.data.examples import (
    Example,
    ExampleOptions,
    Knowledge,
    merge_turns,
    read_examples,
    to_examples,
    write_examples,
)
from trainer.data.graph_files import GraphFiles, read_graph_files
from trainer.data.kgsf_counts import KgsfCounts, count_as_kgsf
from trainer.data.knowledge_graph import KnowledgeGraph, readable_name
from trainer.data.raw_corpus import SPLITS, Corpus, RawCorpus, read_corpus
from trainer.data.redial import Dialogue, split_mentions
from trainer.data.vocabulary import Vocabulary, build_vocabulary
from trainer.data.word_graph import (
    WordGraph,
    find_conceptnet,
    read_stop_words,
    read_word_graph,
    split_words,
)

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 2

Source = Literal["redial", "synthetic"]
SOURCES: tuple[Source, ...] = get_args(Source)

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
    """Gold movies of responses, with repeats."""
    context_entities: int
    """Entities of all contexts together."""
    as_kgsf: KgsfCounts
    """The same split as KGSF's chain counts it."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared folder holds and was made from; manifest.json has these keys."""

    format_version: int
    source: Source
    splits: dict[str, SplitCounts]
    options: ExampleOptions
    num_items: int
    num_entities: int
    num_relations: int
    num_triples: int
    base_vocab_size: int
    vocab_size: int
    vocabulary_digest: str
    graph_digest: str
    num_words: int
    num_word_edges: int
    words_digest: str
    drawn_valid_ids: list[str]
    """Train dialogues drawn for valid; empty if the corpus has a valid file."""


@dataclass(frozen=True, kw_only=True)
class RawSources:
    """Where a raw corpus lies."""

    dialogues: Path
    """Folder or zip with one file of dialogues per split."""
    graph: Path
    """Folder with the four files of the knowledge graph."""
    conceptnet: Path | None = None
    """ConceptNet's assertions; None: the one in the graph's folder."""
    stop_words: Path | None = None
    """Words that the word graph leaves out; None: none."""


@dataclass(frozen=True)
class PreparedData:
    """A prepared folder, with its vocabulary and graphs in memory."""

    root: Path
    vocabulary: Vocabulary
    graph: KnowledgeGraph
    words: WordGraph
    manifest: Manifest

    @property
    def graphs_digest(self) -> str:
        """What a recommendation teacher must have been fitted on: films' graph and words' graph."""
        return digest_strings([self.graph.digest, self.words.digest])

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
            "context_words": (example.context_words, len(self.words.words)),
            "gold_items": (example.gold_items, self.vocabulary.num_items),
        }
        for name, (ids, limit) in limits.items():
            if ids.size and not (ids.min() >= 0 and ids.max() < limit):
                raise ValueError(
                    f"{path}: {name} of {example.example_id} must be in [0, {limit}), got "
                    f"{ids.min()}..{ids.max()}. Prepare the data again."
                )


def load_prepared(folder: Path | str) -> PreparedData:
    """A prepared folder, refused unless vocabulary and graphs are those of its manifest."""
    root = Path(folder)
    manifest = _read_manifest(root / MANIFEST_NAME)
    vocabulary = Vocabulary.load(root)
    graph = KnowledgeGraph.load(root)
    words = WordGraph.load(root)
    for name, digest, expected in (
        ("vocabulary", vocabulary.digest, manifest.vocabulary_digest),
        ("graph", graph.digest, manifest.graph_digest),
        ("word graph", words.digest, manifest.words_digest),
    ):
        if digest != expected:
            raise ValueError(
                f"the {name} in {root} must have digest {expected} as in {MANIFEST_NAME}, got "
                f"{digest}. Prepare the data again."
            )
    return PreparedData(
        root=root, vocabulary=vocabulary, graph=graph, words=words, manifest=manifest
    )


def prepare(
    sources: RawSources,
    output_dir: Path,
    *,
    source: Source,
    make_tokenizer: TokenizerMaker,
    options: ExampleOptions,
    valid_seed: int,
    progress: Progress,
) -> Manifest:
    """Read a raw corpus, check all of it, and write the prepared folder.

    Raises:
        FileNotFoundError: if a folder or a file is missing.
        ValueError: naming file and line or value, for the first thing that is wrong.
    """
    files = read_graph_files(sources.graph)
    raw = read_corpus(
        sources.dialogues, movie_ids=files.movie_entities, valid_seed=valid_seed, progress=progress
    )
    corpus = raw.dialogues
    titles = movie_titles(files.movie_entities, (d for split in SPLITS for d in corpus[split]))
    vocabulary = build_vocabulary(make_tokenizer(corpus, list(titles.values())), titles)
    graph = files.graph(vocabulary.movie_ids)
    words = _word_graph(sources, corpus["train"], progress)
    knowledge = _knowledge(files, graph, words, vocabulary, options)

    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / MANIFEST_NAME).unlink(missing_ok=True)
    vocabulary.save(output_dir)
    graph.save(output_dir)
    words.save(output_dir)
    counts: dict[str, SplitCounts] = {}
    linked = {movie for movie, entity in files.movie_entities.items() if entity != movie}
    for split in SPLITS:
        examples: list[Example] = []
        for dialogue in progress.track(corpus[split], description=f"encoding {split}"):
            examples += to_examples(dialogue, vocabulary, knowledge, options)
        write_examples(output_dir / f"{split}.jsonl", examples)
        counts[split] = count_split(corpus[split], examples, linked)
    manifest = _manifest(source, counts, options, vocabulary, knowledge, raw)
    write_json(output_dir / MANIFEST_NAME, dataclasses.asdict(manifest))
    return manifest


def _word_graph(
    sources: RawSources, dialogues: Iterable[Dialogue], progress: Progress
) -> WordGraph:
    """Relations between the words of the given dialogues, films' titles left out."""
    vocabulary = {
        word
        for dialogue in dialogues
        for message in dialogue.messages
        for piece in split_mentions(message.text, dialogue.titles)
        if isinstance(piece, str)
        for word in split_words(piece)
    }
    return read_word_graph(
        sources.conceptnet or find_conceptnet(sources.graph),
        vocabulary,
        stop_words=read_stop_words(sources.stop_words) if sources.stop_words else frozenset(),
        progress=progress,
    )


def _knowledge(
    files: GraphFiles,
    graph: KnowledgeGraph,
    words: WordGraph,
    vocabulary: Vocabulary,
    options: ExampleOptions,
) -> Knowledge:
    unlinked = (movie for movie, entity in files.movie_entities.items() if movie == entity)
    dropped = frozenset(map(vocabulary.item_index, unlinked)) if options.drop_unlinked else ()
    return Knowledge(
        graph=graph,
        words=words,
        linker=build_linker(files.entity_ids, graph) if options.link_entities else None,
        dropped_items=frozenset(dropped),
    )


def _manifest(
    source: Source,
    counts: dict[str, SplitCounts],
    options: ExampleOptions,
    vocabulary: Vocabulary,
    knowledge: Knowledge,
    raw: RawCorpus,
) -> Manifest:
    graph, words = knowledge.graph, knowledge.words
    return Manifest(
        format_version=FORMAT_VERSION,
        source=source,
        splits=counts,
        options=options,
        num_items=vocabulary.num_items,
        num_entities=graph.num_entities,
        num_relations=graph.num_relations,
        num_triples=len(graph.edges_E3),
        base_vocab_size=vocabulary.base_size,
        vocab_size=vocabulary.size,
        vocabulary_digest=vocabulary.digest,
        graph_digest=graph.digest,
        num_words=len(words.words),
        num_word_edges=len(words.edges_E2),
        words_digest=words.digest,
        drawn_valid_ids=list(raw.drawn_valid_ids),
    )


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


def count_split(
    dialogues: Sequence[Dialogue], examples: Sequence[Example], linked: Container[str]
) -> SplitCounts:
    """Counts of one split, before and after the making of examples.

    Args:
        linked: the movies that have a DBpedia page, as KGSF's counts need to know.
    """
    return SplitCounts(
        dialogues=len(dialogues),
        messages=sum(len(dialogue.messages) for dialogue in dialogues),
        merged_turns=sum(len(merge_turns(dialogue)) for dialogue in dialogues),
        responses=len(examples),
        responses_with_item=sum(example.is_recommendation for example in examples),
        recommendation_samples=sum(len(example.gold_items) for example in examples),
        context_entities=sum(len(example.context_entities) for example in examples),
        as_kgsf=count_as_kgsf(dialogues, linked),
    )


def _read_manifest(path: Path) -> Manifest:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} must be a prepared folder, got no {MANIFEST_NAME} there. Make it with: "
            f"python -m trainer.data prepare --source SOURCE --input DIR --output {path.parent}"
        )
    try:
        record = json.loads(path.read_bytes())
        record["options"] = ExampleOptions(**record["options"])
        record["splits"] = {
            split: SplitCounts(**{**counts, "as_kgsf": KgsfCounts(**counts["as_kgsf"])})
            for split, counts in record["splits"].items()
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
