"""From a raw corpus to a prepared folder (`prepared.py`).

The manifest is removed first and written last, so a folder with a manifest is a whole folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rich.progress import Progress

from trainer.common.atomic import write_json
from trainer.common.errors import InputError
from trainer.data.corpus import Corpus, CorpusFiles, no_words
from trainer.data.dialogue import SPLITS, Dialogue, Split
from trainer.data.dialogue_examples import ExampleOptions, Knowledge, to_examples
from trainer.data.entity_linker import build_linker
from trainer.data.examples import Example, write_examples
from trainer.data.knowledge_graph import KnowledgeGraph, readable_name
from trainer.data.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    Manifest,
    count_split,
)
from trainer.data.oddities import find_twins
from trainer.data.raw_graph import RawGraph
from trainer.data.splits import Dialogues, load_splits
from trainer.data.stored_dialogues import dialogues_name, store_dialogues, write_dialogues
from trainer.data.tokenizer import TokenizerMaker, as_loaded
from trainer.data.vocabulary import Vocabulary, build_vocabulary
from trainer.data.word_graph import WordGraph, split_words


def prepare(
    corpus: Corpus,
    files: CorpusFiles,
    output_dir: Path,
    *,
    find_tokenizer: Callable[[], TokenizerMaker],
    options: ExampleOptions,
    valid_seed: int,
    skip_bad: bool,
    command: str,
    progress: Progress,
) -> Manifest:
    """Read a raw corpus, check all of it, and write the prepared folder.

    Args:
        find_tokenizer: is called when all files are there, and before the dialogues are read.
        skip_bad: leave out records that are no dialogues, and list them in the manifest.
        command: how a user makes the folder again.

    Raises:
        MissingError: if a folder or a file is missing.
        InputError: naming file and line or value of what is wrong.
    """
    readers = corpus.read_splits(files.dialogues)
    raw_graph = corpus.read_graph(files.graph)
    if files.with_words:
        corpus.check_files(files)
    make_tokenizer = find_tokenizer()
    loaded = load_splits(
        readers,
        movie_ids=raw_graph.movie_entities,
        valid_seed=valid_seed,
        skip_bad=skip_bad,
        progress=progress,
    )
    dialogues = loaded.dialogues
    titles = movie_titles(
        raw_graph.movie_entities, (it for split in SPLITS for it in dialogues[split])
    )
    tokenizer = as_loaded(make_tokenizer(dialogues["train"], list(titles.values())))
    vocabulary = build_vocabulary(tokenizer, titles)
    graph = raw_graph.graph(vocabulary.movie_ids)
    read_words = corpus.read_words if files.with_words else no_words
    words = read_words(files, words_of(dialogues["train"]), progress)
    knowledge = _knowledge(raw_graph, graph, words, vocabulary, options)
    examples = _make_examples(dialogues, vocabulary, knowledge, options, progress)

    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / MANIFEST_NAME).unlink(missing_ok=True)
    vocabulary.save(output_dir)
    graph.save(output_dir)
    words.save(output_dir)
    digests = _write_splits(output_dir, dialogues, examples)
    unlinked = set(raw_graph.unlinked_movies)
    linked = {movie for movie in raw_graph.movie_entities if movie not in unlinked}
    splits = {
        split: count_split(
            dialogues[split],
            examples[split],
            linked=linked,
            num_skipped=len(loaded.skipped.get(split, ())),
        )
        for split in SPLITS
    }
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source=corpus.name,
        splits={**splits},
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
        drawn_valid_ids=list(loaded.drawn_valid_ids),
        dialogue_digests=digests,
        skipped=[f"{it.place}: {it.problem}" for bad in loaded.skipped.values() for it in bad],
        twins=find_twins(titles),
        command=command,
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


def words_of(dialogues: Iterable[Dialogue]) -> set[str]:
    """The distinct words of the dialogues in lower case, movies' titles left out."""
    pieces = (piece for dialogue in dialogues for piece in dialogue.pieces())
    return {word for piece in pieces if isinstance(piece, str) for word in split_words(piece)}


def _knowledge(
    raw_graph: RawGraph,
    graph: KnowledgeGraph,
    words: WordGraph,
    vocabulary: Vocabulary,
    options: ExampleOptions,
) -> Knowledge:
    dropped = raw_graph.unlinked_movies if options.drop_unlinked else []
    return Knowledge(
        graph=graph,
        words=words,
        linker=build_linker(raw_graph.entity_ids, graph) if options.link_entities else None,
        dropped_items=frozenset(map(vocabulary.item_index, dropped)),
    )


def _make_examples(
    dialogues: Dialogues,
    vocabulary: Vocabulary,
    knowledge: Knowledge,
    options: ExampleOptions,
    progress: Progress,
) -> dict[Split, list[Example]]:
    """The examples of every split; InputError if one has none."""
    examples: dict[Split, list[Example]] = {}
    for split in SPLITS:
        examples[split] = []
        for dialogue in progress.track(dialogues[split], description=f"encoding {split}"):
            examples[split] += to_examples(dialogue, vocabulary, knowledge, options)
        if not examples[split]:
            raise InputError(
                f"the {split} split must give at least one example, got none from its "
                f"{len(dialogues[split])} dialogues: in none does the recommender answer a turn "
                "before. Add dialogues in which it does."
            )
    return examples


def _write_splits(
    output_dir: Path, dialogues: Dialogues, examples: Mapping[Split, list[Example]]
) -> dict[str, str]:
    """Write examples and dialogues of every split; return the digests of the dialogues."""
    digests: dict[str, str] = {}
    for split in SPLITS:
        write_examples(output_dir / f"{split}.jsonl", examples[split])
        stored = store_dialogues(dialogues[split], examples[split])
        digests[split] = write_dialogues(output_dir / dialogues_name(split), stored)
    return digests
