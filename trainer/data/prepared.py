"""A prepared folder in memory, checked against its manifest.

It holds manifest.json, vocabulary.json, tokenizer/, graph.safetensors, words.safetensors and for
each split a JSON-lines file of examples and one of dialogues; `prepare.py` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protos.fingerprint import digest_strings
from trainer.common.errors import InputError
from trainer.data.dialogue import SPLITS
from trainer.data.examples import Example, read_examples
from trainer.data.knowledge_graph import KnowledgeGraph
from trainer.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from trainer.data.stored_dialogues import StoredDialogue, dialogues_name, read_dialogues
from trainer.data.vocabulary import Vocabulary
from trainer.data.word_graph import WordGraph


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
        """Of both graphs, of movies and of words: what a recommendation teacher is fitted on."""
        return digest_strings([self.graph.digest, self.words.digest])

    def examples(self, split: str) -> list[Example]:
        """All examples of "train", "valid" or "test", in the order of the dialogues.

        Raises:
            InputError: if there is no such split, its file is not the one the manifest counts, or
                it is empty.
        """
        self._check_split(split)
        path = self.root / f"{split}.jsonl"
        examples = read_examples(path)
        expected = self.manifest.splits[split].responses
        if len(examples) != expected:
            raise InputError(
                f"{path} must hold {expected} examples as in {MANIFEST_NAME}, got {len(examples)}. "
                "Prepare the data again."
            )
        if not examples:
            raise InputError(
                f"{path} must hold at least one example, got none. Prepare data in which a "
                f"recommender answers in {split}."
            )
        for example in examples:
            self._check_ids(path, example)
        return examples

    def dialogues(self, split: str) -> list[StoredDialogue]:
        """All dialogues of a split with their single messages and questionnaires, in their order.

        Raises:
            MissingError: if their file is missing.
            InputError: if there is no such split, or its file has another digest.
        """
        self._check_split(split)
        path = self.root / dialogues_name(split)
        return read_dialogues(path, self.manifest.dialogue_digests[split])

    def _check_split(self, split: str) -> None:
        if split not in self.manifest.splits:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split}.")

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
                raise InputError(
                    f"{path}: {name} of {example.example_id} must be in [0, {limit}), got "
                    f"{ids.min()}..{ids.max()}. Prepare the data again."
                )


def load_prepared(folder: Path | str) -> PreparedData:
    """A prepared folder, refused unless vocabulary and graphs are those of its manifest."""
    root = Path(folder)
    manifest = read_manifest(root)
    vocabulary = Vocabulary.load(root)
    graph = KnowledgeGraph.load(root)
    words = WordGraph.load(root)
    for name, digest, expected in (
        ("vocabulary", vocabulary.digest, manifest.vocabulary_digest),
        ("graph", graph.digest, manifest.graph_digest),
        ("word graph", words.digest, manifest.words_digest),
    ):
        if digest != expected:
            raise InputError(
                f"the {name} in {root} must have digest {expected} as in {MANIFEST_NAME}, got "
                f"{digest}. Prepare the data again."
            )
    return PreparedData(
        root=root, vocabulary=vocabulary, graph=graph, words=words, manifest=manifest
    )
