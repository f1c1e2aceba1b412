"""`python -m trainer.data`: fetch the public files, and make a prepared folder from a corpus."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from trainer.common.cli import run_main
from trainer.common.errors import InputError, MissingError
from trainer.common.outputs import check_output
from trainer.common.plugins import with_plugins
from trainer.data.corpora.table import CORPORA
from trainer.data.corpus import Corpus, CorpusFiles
from trainer.data.dialogue_examples import ExampleOptions
from trainer.data.download import SOURCES as DOWNLOADS
from trainer.data.download import download
from trainer.data.manifest import RAW_NAME, print_manifest
from trainer.data.prepare import prepare
from trainer.data.tokenizer import TokenizerMaker, load_tokenizer
from trainer.data.vocabulary import check_tokenizer

# Option that is gone -> what to do instead.
REMOVED_OPTIONS = {
    "--mirror": "Put the files into the folder of --output: they are checked, and not fetched.",
    "--stop-words": "Leave the words' lines out of the file of --conceptnet.",
}


def main(argv: list[str]) -> None:
    """Run one command; ValueError or OSError for what the user can correct."""
    _refuse_removed_options(argv)
    arguments = _build_parser().parse_args(argv)
    if arguments.command == "download":
        _download(arguments)
    else:
        _prepare(arguments, shlex.join(["python", "-m", "trainer.data", *argv]))


def _refuse_removed_options(argv: list[str]) -> None:
    for argument in argv:
        option = argument.partition("=")[0]
        if option in REMOVED_OPTIONS:
            raise InputError(
                f"{option} must be left out: the option was removed. {REMOVED_OPTIONS[option]}"
            )


def _download(arguments: argparse.Namespace) -> None:
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        digests = download(arguments.what, arguments.output, progress=progress)
    for name, digest in digests.items():
        Console().print(f"{digest}  {arguments.output / name}", highlight=False, soft_wrap=True)


def _prepare(arguments: argparse.Namespace, command: str) -> None:
    options = ExampleOptions(
        max_context=arguments.max_context,
        max_response=arguments.max_response,
        drop_unlinked=arguments.drop_unlinked,
        link_entities=not arguments.no_entity_links,
    )
    corpus = _corpus(arguments)
    _check_arguments(arguments, corpus)
    check_output("--output", arguments.output)
    _check_paths(arguments, corpus)
    # Progress goes to stderr, so that stdout holds the table alone. A log needs none: an error is
    # its first line.
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        manifest = prepare(
            corpus,
            _corpus_files(arguments, corpus),
            arguments.output,
            find_tokenizer=lambda: _tokenizer_maker(arguments.tokenizer, corpus),
            options=options,
            valid_seed=arguments.seed,
            skip_bad=arguments.skip_bad,
            command=command,
            progress=progress,
        )
    print_manifest(manifest, arguments.output)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.data", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser(
        "download", help="fetch public files, with checksum", allow_abbrev=False
    )
    fetch.add_argument("what", choices=tuple(DOWNLOADS))
    fetch.add_argument("--output", type=Path, required=True, help="folder to write")
    command = commands.add_parser(
        "prepare", help="raw corpus -> examples, vocabulary, graph, manifest", allow_abbrev=False
    )
    _add_prepare_options(command)
    return parser


def _add_prepare_options(command: argparse.ArgumentParser) -> None:
    names = ", ".join(CORPORA)
    needs = "; ".join(f"{corpus.name}: {corpus.needs}" for corpus in CORPORA.values())
    generated = ", ".join(name for name, corpus in CORPORA.items() if corpus.write is not None)
    add = command.add_argument
    add("--source", required=True, help=f"the corpus: {names}, or one of a plugin")
    add(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="module whose dictionary CORPORA adds corpora; may be repeated",
    )
    add(
        "--input",
        type=Path,
        help=f"the dialogues ({needs}). Without it, a generated corpus ({generated}) is written to "
        f"OUTPUT/{RAW_NAME}",
    )
    add("--graph", type=Path, help="folder with the knowledge graph (default: --input)")
    add(
        "--conceptnet",
        type=Path,
        help="ConceptNet's assertions, .csv.gz (default: the one in the graph's folder)",
    )
    add(
        "--drop-unlinked",
        action="store_true",
        help="leave out movies without a DBpedia page, as other systems do",
    )
    add(
        "--no-entity-links",
        action="store_true",
        help="movies alone are context entities, not people, films and genres in the text",
    )
    add("--output", type=Path, required=True, help="folder to write")
    add("--tokenizer", help="Hugging Face name or folder (default: that of the corpus)")
    add("--max-context", type=int, default=256, help="tokens (default 256)")
    add("--max-response", type=int, default=30, help="tokens (default 30)")
    add(
        "--seed",
        type=int,
        default=0,
        help="of a generated corpus, and of the valid split if it must be drawn (default 0)",
    )
    add("--dialogues", type=int, help="train dialogues of a generated corpus")
    add("--no-words", action="store_true", help="do without word relations and ConceptNet's file")
    add(
        "--skip-bad",
        action="store_true",
        help="leave out records that are no dialogues, and list them, instead of ending",
    )


def _corpus(arguments: argparse.Namespace) -> Corpus:
    corpora = with_plugins(CORPORA, arguments.plugin, "CORPORA")
    if arguments.source not in corpora:
        raise InputError(
            f"--source must be one of {', '.join(corpora)}, got {arguments.source}. "
            "Name the module that adds it with --plugin."
        )
    return corpora[arguments.source]


def _check_arguments(arguments: argparse.Namespace, corpus: Corpus) -> None:
    if arguments.input is not None and arguments.input.resolve() == arguments.output.resolve():
        raise InputError(
            f"--output must be another folder than --input, got {arguments.output} for both."
        )
    if arguments.tokenizer is not None and not arguments.tokenizer.strip():
        raise InputError(
            f"--tokenizer must be a folder or a Hugging Face model, got {arguments.tokenizer!r}. "
            "Leave it out for the corpus's own."
        )
    if arguments.seed < 0:
        raise InputError(f"--seed must be >= 0, got {arguments.seed}.")
    if corpus.write is None and arguments.input is None:
        raise InputError(
            f"--input must be given for --source {corpus.name}, got none. Give {corpus.needs}."
        )
    if arguments.dialogues is not None and (corpus.write is None or arguments.input is not None):
        raise InputError(
            f"--dialogues must be left out if a corpus is given, got {arguments.dialogues}. "
            "It sizes a corpus that is generated."
        )


def _check_paths(arguments: argparse.Namespace, corpus: Corpus) -> None:
    """Raise MissingError for what is named and not there."""
    given = {"--input": arguments.input, "--graph": arguments.graph}
    needs = {"--input": corpus.needs, "--graph": "the folder with the knowledge graph"}
    for option, path in given.items():
        if path is not None and not path.exists():
            raise MissingError(f"{option} must be {needs[option]}, got {path}. Check the path.")


def _tokenizer_maker(name: str | None, corpus: Corpus) -> TokenizerMaker:
    """The tokenizer that is named, loaded and checked now; else what the corpus fits."""
    name = corpus.tokenizer_name if name is None else name
    if name is None:
        return corpus.make_tokenizer
    tokenizer = load_tokenizer(name)
    check_tokenizer(tokenizer)
    return lambda dialogues, titles: tokenizer


def _corpus_files(arguments: argparse.Namespace, corpus: Corpus) -> CorpusFiles:
    dialogues = arguments.input
    if dialogues is None:
        dialogues = arguments.output / RAW_NAME
        assert corpus.write is not None
        corpus.write(dialogues, arguments.seed, arguments.dialogues)
    return CorpusFiles(
        dialogues=dialogues,
        graph=arguments.graph or dialogues,
        conceptnet=arguments.conceptnet,
        with_words=not arguments.no_words,
    )


if __name__ == "__main__":
    run_main(main)
