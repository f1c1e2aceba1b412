"""What a data set must offer to be prepared: one `Corpus`, an entry of `corpora/table.py`.

A plugin is a module with `CORPORA = {"name": Corpus(...)}`, named by `--plugin`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from trainer.common.errors import MissingError
from trainer.data.conceptnet import WITHOUT_CONCEPTNET, find_conceptnet, read_conceptnet
from trainer.data.dialogue import BadRecord, Dialogue, Split
from trainer.data.graph_files import read_graph_files
from trainer.data.raw_graph import RawGraph
from trainer.data.tokenizer import TokenizerMaker, train_tokenizer
from trainer.data.word_graph import WordGraph


@dataclass(frozen=True, kw_only=True)
class CorpusFiles:
    """Where the files of a corpus lie."""

    dialogues: Path
    """Folder or file with the dialogues (`--input`)."""
    graph: Path
    """Folder with the knowledge graph (`--graph`)."""
    conceptnet: Path | None = None
    """ConceptNet's assertions (`--conceptnet`); None: those in the graph's folder."""
    with_words: bool = True
    """False (`--no-words`): the word relations are not read."""


WordReader = Callable[[CorpusFiles, Collection[str], Progress], WordGraph]
"""Files, words of the train dialogues in lower case -> the relations between these words."""


def conceptnet_words(
    files: CorpusFiles, vocabulary: Collection[str], progress: Progress
) -> WordGraph:
    """Relations from ConceptNet's assertions; errors as in `conceptnet.py`."""
    path = files.conceptnet or find_conceptnet(files.graph)
    return read_conceptnet(path, vocabulary, progress=progress)


def check_conceptnet(files: CorpusFiles) -> None:
    """Raise MissingError or InputError unless there is one file with ConceptNet's assertions."""
    if files.conceptnet is None:
        find_conceptnet(files.graph)
    elif not files.conceptnet.is_file():
        raise MissingError(
            f"--conceptnet must be ConceptNet's assertions, got no file {files.conceptnet}. "
            f"{WITHOUT_CONCEPTNET}"
        )


def check_nothing(files: CorpusFiles) -> None:
    """For a corpus whose readers find all that is missing at once."""


def no_words(files: CorpusFiles, vocabulary: Collection[str], progress: Progress) -> WordGraph:
    """For a corpus without word relations: its recommendation teacher has no word side."""
    return WordGraph.of(())


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One data set: where its dialogues, graph, words and tokenizer come from.

    The functions raise FileNotFoundError or ValueError that name file and place of what is wrong.
    """

    name: str
    """As given to `--source`."""
    needs: str
    """What `--input` must be, for help and errors."""
    read_splits: Callable[[Path], Mapping[Split, Iterable[Dialogue | BadRecord]]]
    """`--input` -> dialogues of train, test and, if the corpus has it, valid. Movies in the texts
    are written @<movie id>. A BadRecord in place of a dialogue is told, or left out with
    `--skip-bad`; a missing file is an error before anything is read."""
    make_tokenizer: TokenizerMaker = train_tokenizer
    """Makes the tokenizer if no `--tokenizer` is given and there is no tokenizer_name."""
    tokenizer_name: str | None = None
    """Hugging Face name of its usual tokenizer, which is looked for before anything is read."""
    check_files: Callable[[CorpusFiles], None] = check_nothing
    """Raises MissingError, before anything is read, if a file that `read_words` needs is missing.
    """
    read_graph: Callable[[Path], RawGraph] = read_graph_files
    """`--graph` -> entities, movies and triples."""
    read_words: WordReader = conceptnet_words
    credit: str = ""
    """Whom its licence says to name with what is made of it; goes into a student's README."""
    write: Callable[[Path, int, int | None], None] | None = None
    """For a generated corpus: (folder, seed, train dialogues or None for its default) -> files in
    that folder that the readers take. None: `--input` must be given."""
