"""What `python -m trainer.data` does: fetch the public files, and prepare a corpus."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from trainer.common.errors import InputError, MissingError
from trainer.common.outputs import check_output
from trainer.common.plugins import with_plugins
from trainer.data.corpora.table import CORPORA
from trainer.data.corpus import Corpus, CorpusFiles
from trainer.data.dialogue_examples import ExampleOptions
from trainer.data.download import download
from trainer.data.manifest import RAW_NAME, print_manifest
from trainer.data.prepare import prepare
from trainer.data.tokenizer import TokenizerMaker, load_tokenizer
from trainer.data.vocabulary import check_tokenizer


def run_download(arguments: argparse.Namespace) -> None:
    """Fetch the files of one source, and print their digests."""
    check_output("--output", arguments.output)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        digests = download(arguments.what, arguments.output, progress=progress)
    for name, digest in digests.items():
        Console().print(f"{digest}  {arguments.output / name}", highlight=False, soft_wrap=True)


def run_prepare(arguments: argparse.Namespace, command: str) -> None:
    """Make the prepared folder, and print its counts; `command` is kept in the manifest."""
    options = ExampleOptions(
        max_context=arguments.max_context,
        max_response=arguments.max_response,
        drop_unlinked=arguments.drop_unlinked,
        link_entities=not arguments.no_entity_links,
    )
    corpus = _corpus(arguments)
    check_output("--output", arguments.output)
    _check_arguments(arguments, corpus)
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
