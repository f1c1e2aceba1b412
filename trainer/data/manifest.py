"""manifest.json of a prepared folder: what it was made from, and counts of what it holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trainer.common.errors import InputError, MissingError
from trainer.data.dialogue import Dialogue
from trainer.data.dialogue_examples import ExampleOptions, merge_turns
from trainer.data.examples import Example
from trainer.data.kgsf_counts import KgsfCounts, count_as_kgsf

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 2


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
    source: str
    """Name of the corpus."""
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


def count_split(
    dialogues: Sequence[Dialogue], examples: Sequence[Example], linked: Container[str]
) -> SplitCounts:
    """Counts of one split, before and after the making of examples.

    Args:
        linked: the movies that have a DBpedia page, for the counts as KGSF has them.
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


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared folder.

    Raises:
        MissingError: if there is none.
        InputError: if it is torn or of another format.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise MissingError(
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
        raise InputError(
            f"{path} must be a manifest of format_version {FORMAT_VERSION}, got {error!r:.100}. "
            "Prepare the data again."
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise InputError(
            f"{path} must have format_version {FORMAT_VERSION}, got {manifest.format_version}. "
            "Prepare the data again."
        )
    return manifest


def print_manifest(manifest: Manifest, output: Path) -> None:
    """Print the counts of a prepared folder as a table to stdout."""
    table = Table(title=f"{manifest.source}: {output}")
    table.add_column("")
    for split in manifest.splits:
        table.add_column(split, justify="right")
    splits = [dataclasses.asdict(split) for split in manifest.splits.values()]
    as_kgsf = [split.pop("as_kgsf") for split in splits]
    for prefix, counts in (("", splits), ("as KGSF: ", as_kgsf)):
        for name in counts[0]:
            cells = (f"{split[name]:,}" for split in counts)
            table.add_row(prefix + name.replace("_", " "), *cells)
    console = Console()
    console.print(table)
    console.print(
        f"{manifest.vocab_size:,} tokens, of which {manifest.num_items:,} items; "
        f"{manifest.num_entities:,} entities, {manifest.num_relations} relations, "
        f"{manifest.num_triples:,} triples; {manifest.num_words:,} related words, "
        f"{manifest.num_word_edges:,} relations",
        highlight=False,
        soft_wrap=True,
    )
