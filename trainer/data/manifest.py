"""manifest.json of a prepared folder: what it was made from, and counts of what it holds."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trainer.common.errors import InputError, MissingError
from trainer.data.dialogue import Dialogue
from trainer.data.dialogue_examples import ExampleOptions, merge_turns
from trainer.data.examples import Example
from trainer.data.kgsf_counts import KgsfCounts, count_as_kgsf
from trainer.data.oddities import Oddities, count_oddities

MANIFEST_NAME = "manifest.json"
RAW_NAME = "raw"
"""Where a generated corpus is written, in the prepared folder."""
FORMAT_VERSION = 3
MAX_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """What one split holds."""

    dialogues: int
    messages: int
    merged_turns: int
    responses: int
    """Examples: recommender turns that have an earlier turn and are not empty."""
    responses_with_item: int
    """Those whose kept tokens hold a movie's: their action is [REC]."""
    recommendation_samples: int
    """Gold movies of responses, with repeats."""
    context_entities: int
    """Entities of all contexts together."""
    oddities: Oddities
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
    dialogue_digests: dict[str, str]
    """Of each split's file of dialogues."""
    skipped: list[str]
    """Place and problem of each bad record that was left out."""
    twins: list[list[str]]
    """Movie ids that share a title and its year. Each stays a movie of its own."""
    command: str
    """What prepared the folder."""


def count_split(
    dialogues: Sequence[Dialogue],
    examples: Sequence[Example],
    *,
    linked: Container[str],
    num_skipped: int,
) -> SplitCounts:
    """Counts of one split, before and after the making of examples.

    Args:
        num_skipped: bad records that were left out.
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
        oddities=count_oddities(dialogues, examples, num_skipped),
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
        version = record["format_version"]
        if version == FORMAT_VERSION:
            return _from_record(record)
        remedy = prepare_again(record, folder)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} must be a manifest of format_version {FORMAT_VERSION}, got {error!r:.100}. "
            "Prepare the data again."
        ) from error
    raise InputError(
        f"{path} must have format_version {FORMAT_VERSION}, got {version}. Prepare the data anew, "
        f"and fit anew what was fitted on them{remedy}"
    )


def prepare_again(record: Mapping[str, Any], folder: Path) -> str:
    """How to make a prepared folder of another format anew: what follows "prepare it anew".

    A manifest of version 2 does not say what was read: its command has the options that it holds,
    the folder's own tokenizer, and DIR where the dialogues must be named.
    """
    command = record.get("command")
    if isinstance(command, str):
        return f": {command}"
    raw = folder / RAW_NAME
    options = ExampleOptions(**record["options"])
    parts = ["python", "-m", "trainer.data", "prepare", "--source", str(record["source"])]
    parts += ["--input", str(raw) if raw.is_dir() else "DIR"]
    parts += ["--tokenizer", str(folder / "tokenizer"), "--output", str(folder)]
    parts += ["--max-context", str(options.max_context)]
    parts += ["--max-response", str(options.max_response)]
    parts += ["--drop-unlinked"] * options.drop_unlinked
    parts += ["--no-entity-links"] * (not options.link_entities)
    forgotten = "with the --graph, --conceptnet, --plugin and --seed that you gave then"
    return f", {forgotten}: {shlex.join(parts)}"


def _from_record(record: dict[str, Any]) -> Manifest:
    splits = {split: _split_counts(counts) for split, counts in record["splits"].items()}
    options = ExampleOptions(**record["options"])
    return Manifest(**{**record, "options": options, "splits": splits})


def _split_counts(record: dict[str, Any]) -> SplitCounts:
    oddities, as_kgsf = Oddities(**record["oddities"]), KgsfCounts(**record["as_kgsf"])
    return SplitCounts(**{**record, "oddities": oddities, "as_kgsf": as_kgsf})


def print_manifest(manifest: Manifest, output: Path) -> None:
    """Print the counts of a prepared folder as a table to stdout."""
    table = Table(title=f"{manifest.source}: {output}")
    table.add_column("")
    for split in manifest.splits:
        table.add_column(split, justify="right")
    splits = [dataclasses.asdict(split) for split in manifest.splits.values()]
    oddities = [split.pop("oddities") for split in splits]
    as_kgsf = [split.pop("as_kgsf") for split in splits]
    for prefix, counts in (("", splits), ("as KGSF: ", as_kgsf), ("odd: ", oddities)):
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
    if manifest.twins:
        twins = ", ".join("/".join(ids) for ids in manifest.twins[:MAX_LISTED])
        _print_line(
            console,
            f"{len(manifest.twins)} titles with their year stand for several movies, which are "
            f"kept apart: {twins}",
        )
    for line in manifest.skipped:
        _print_line(console, f"skipped: {line}")


def _print_line(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)
