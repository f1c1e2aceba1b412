"""`python -m trainer.data`: fetch the public files, and make a prepared folder from a corpus."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn
from rich.table import Table

from trainer.common.cli import run_main
from trainer.data.download import SOURCES as DOWNLOADS
from trainer.data.download import download
from trainer.data.examples import ExampleOptions
from trainer.data.prepare import SOURCES, Manifest, RawSources, TokenizerMaker, prepare
from trainer.data.synthetic import CorpusSizes, train_tokenizer, write_corpus
from trainer.data.tokenizer import load_tokenizer

DEFAULT_TOKENIZER = "microsoft/DialoGPT-small"
RAW_NAME = "raw"


def main(argv: list[str]) -> None:
    """Run one command; ValueError or OSError for what the user can mend."""
    arguments = _build_parser().parse_args(argv)
    if arguments.command == "download":
        _download(arguments)
    else:
        _prepare(arguments)


def _download(arguments: argparse.Namespace) -> None:
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        digests = download(
            arguments.what, arguments.output, mirror=arguments.mirror, progress=progress
        )
    for name, digest in digests.items():
        Console().print(f"{digest}  {arguments.output / name}", highlight=False, soft_wrap=True)


def _prepare(arguments: argparse.Namespace) -> None:
    options = ExampleOptions(
        max_context=arguments.max_context,
        max_response=arguments.max_response,
        drop_unlinked=arguments.drop_unlinked,
        link_entities=not arguments.no_entity_links,
    )
    _check_arguments(arguments)
    # Progress goes to stderr, so that stdout holds the table alone.
    with Progress(console=Console(stderr=True), transient=True) as progress:
        manifest = prepare(
            _raw_sources(arguments),
            arguments.output,
            source=arguments.source,
            make_tokenizer=_tokenizer_maker(arguments),
            options=options,
            valid_seed=arguments.seed,
            progress=progress,
        )
    _print_manifest(manifest, arguments.output)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.data", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser(
        "download", help="fetch public files, with resume and checksum", allow_abbrev=False
    )
    fetch.add_argument("what", choices=tuple(DOWNLOADS))
    fetch.add_argument("--output", type=Path, required=True, help="folder to write")
    fetch.add_argument("--mirror", help="fetch URL/NAME instead of the public addresses")
    command = commands.add_parser(
        "prepare", help="raw corpus -> examples, vocabulary, graph, manifest", allow_abbrev=False
    )
    command.add_argument("--source", choices=SOURCES, required=True)
    command.add_argument(
        "--input",
        type=Path,
        help="folder or official zip with the dialogues; without it, synthetic writes a corpus to "
        "OUTPUT/raw",
    )
    command.add_argument(
        "--graph",
        type=Path,
        help="folder with the knowledge graph, as JSON or as KGSF's pickles (default: --input)",
    )
    command.add_argument(
        "--conceptnet",
        type=Path,
        help="ConceptNet's assertions, .csv.gz (default: the one in the graph's folder)",
    )
    command.add_argument(
        "--stop-words", type=Path, help="file of words that the word graph leaves out"
    )
    command.add_argument(
        "--drop-unlinked",
        action="store_true",
        help="leave out movies without a DBpedia page, as other systems do",
    )
    command.add_argument(
        "--no-entity-links",
        action="store_true",
        help="movies alone are context entities, not people, films and genres in the text",
    )
    command.add_argument("--output", type=Path, required=True, help="folder to write")
    command.add_argument(
        "--tokenizer",
        help=f"Hugging Face name or folder; default for redial: {DEFAULT_TOKENIZER}, for "
        "synthetic: a small BPE trained on its own text",
    )
    command.add_argument("--max-context", type=int, default=256, help="tokens (default 256)")
    command.add_argument("--max-response", type=int, default=30, help="tokens (default 30)")
    command.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the synthetic corpus, and of the valid split where there is none (default 0)",
    )
    command.add_argument(
        "--dialogues",
        type=int,
        help=f"train dialogues of the synthetic corpus (default {CorpusSizes().train})",
    )
    return parser


def _check_arguments(arguments: argparse.Namespace) -> None:
    if arguments.seed < 0:
        raise ValueError(f"--seed must be >= 0, got {arguments.seed}.")
    if arguments.source == "redial" and arguments.input is None:
        raise ValueError(
            "--input must be given for --source redial, got none. Give the folder that holds "
            "train_data.jsonl."
        )
    if arguments.dialogues is not None and (
        arguments.source == "redial" or arguments.input is not None
    ):
        raise ValueError(
            f"--dialogues must be left out where a corpus is given, got {arguments.dialogues}. "
            "It sizes the corpus that --source synthetic writes without --input."
        )


def _raw_sources(arguments: argparse.Namespace) -> RawSources:
    dialogues = arguments.input or _write_synthetic(arguments)
    return RawSources(
        dialogues=dialogues,
        graph=arguments.graph or dialogues,
        conceptnet=arguments.conceptnet,
        stop_words=arguments.stop_words,
    )


def _write_synthetic(arguments: argparse.Namespace) -> Path:
    raw = arguments.output / RAW_NAME
    num_train = arguments.dialogues
    sizes = CorpusSizes() if num_train is None else CorpusSizes.for_train(num_train)
    write_corpus(raw, seed=arguments.seed, sizes=sizes)
    return raw


def _tokenizer_maker(arguments: argparse.Namespace) -> TokenizerMaker:
    if arguments.source == "synthetic" and arguments.tokenizer is None:
        return lambda corpus, titles: train_tokenizer(corpus["train"], titles)
    name = arguments.tokenizer or DEFAULT_TOKENIZER
    return lambda corpus, titles: load_tokenizer(name)


def _print_manifest(manifest: Manifest, output: Path) -> None:
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


if __name__ == "__main__":
    run_main(main)
