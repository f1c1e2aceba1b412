"""`python -m trainer.data`: fetch the public files, and make a prepared folder from a corpus."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from trainer.common.cli import run_main
from trainer.common.command import CommandParser, whole
from trainer.common.errors import InputError

DOWNLOADS = ("redial", "dbpedia", "conceptnet")
MAX_TOKENS = 1 << 16
MAX_DIALOGUES = 1 << 20
MAX_SEED = (1 << 32) - 1
# Option that is gone -> what to do instead.
REMOVED_OPTIONS = {
    "--mirror": "Put the files into the folder of --output: they are checked, and not fetched.",
    "--stop-words": "Leave the words' lines out of the file of --conceptnet.",
}


def main(argv: list[str]) -> None:
    """Parse, then run one command; UserError or OSError for what the user can correct."""
    arguments = parse(argv)
    # Not above: a mistake in the command line must not wait for torch.
    from trainer.data.corpora.commands import run_download, run_prepare

    if arguments.command == "download":
        run_download(arguments)
    else:
        run_prepare(arguments, shlex.join(["python", "-m", "trainer.data", *argv]))


def parse(argv: list[str]) -> argparse.Namespace:
    """The `command` and its options."""
    _refuse_removed_options(argv)
    parser = CommandParser(
        prog="python -m trainer.data",
        description="Fetch public files, and make a prepared folder from a corpus.",
    )
    commands = parser.add_commands("download|prepare")
    fetch = commands.add_parser("download", help="fetch public files, with checksum")
    fetch.add_argument("what", choices=DOWNLOADS)
    fetch.add_argument("--output", type=Path, required=True, help="folder to write")
    _add_prepare_options(
        commands.add_parser("prepare", help="raw corpus -> examples, vocabulary, graph, manifest")
    )
    return parser.parse_args(argv)


def _refuse_removed_options(argv: list[str]) -> None:
    for argument in argv:
        option = argument.partition("=")[0]
        if option in REMOVED_OPTIONS:
            raise InputError(
                f"{option} must be left out: the option was removed. {REMOVED_OPTIONS[option]}"
            )


def _add_prepare_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--source", required=True, help="the corpus: redial, synthetic, or one of a plugin")
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
        help="the dialogues, a folder or ReDial's zip; without it the synthetic ones are made in "
        "OUTPUT/raw",
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
    add("--max-context", type=whole(1, MAX_TOKENS), default=256, help="tokens")
    add("--max-response", type=whole(1, MAX_TOKENS), default=30, help="tokens")
    add(
        "--seed",
        type=whole(0, MAX_SEED),
        default=0,
        help="of a generated corpus, and of the valid split if it must be drawn",
    )
    add("--dialogues", type=whole(1, MAX_DIALOGUES), help="train dialogues of a generated corpus")
    add("--no-words", action="store_true", help="do without word relations and ConceptNet's file")
    add(
        "--skip-bad",
        action="store_true",
        help="leave out records that are no dialogues, and list them, instead of ending",
    )


if __name__ == "__main__":
    run_main(main)
