"""A corpus of our own in another format, as a plugin adds it: `--plugin tests.support.toy_corpus`.

films.csv has a film and its genre in each line, turns.csv one turn: split, dialogue, speaker, text.
Films stand in the text in braces. There is no valid split, and words have no relations.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from trainer.data.corpus import Corpus, no_words
from trainer.data.dialogue import Dialogue, Message, Sender, Split
from trainer.data.raw_graph import RawGraph
from trainer.data.tokenizer import train_tokenizer

FILMS = {
    "Heat (1995)": "crime",
    "Ronin (1998)": "crime",
    "Alien (1979)": "space",
    "Moon (2009)": "space",
    "Big (1988)": "comedy",
    "Clue (1985)": "comedy",
}
NUM_DIALOGUES: Mapping[Split, int] = {"train": 22, "test": 6}
SENDERS: Mapping[str, Sender] = {"ann": "seeker", "bot": "recommender"}


def write_toy_corpus(folder: Path) -> None:
    """The two files: every dialogue is about two films of one genre."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows(FILMS.items())
    pairs = [(a, b) for a, b in itertools.permutations(FILMS, 2) if FILMS[a] == FILMS[b]]
    with (folder / "turns.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        for split, count in NUM_DIALOGUES.items():
            for number in range(count):
                liked, recommended = pairs[number % len(pairs)]
                dialogue = f"{split}-{number}"
                writer.writerow([split, dialogue, "ann", f"Hi, I loved {{{liked}}}!"])
                writer.writerow([split, dialogue, "bot", f"Then watch {{{recommended}}}, please."])
                writer.writerow([split, dialogue, "ann", "Thanks, I will."])
                writer.writerow([split, dialogue, "bot", "Enjoy it."])


def _read_splits(folder: Path) -> dict[Split, Iterator[Dialogue]]:
    return {split: _read_split(folder, split) for split in NUM_DIALOGUES}


def _read_split(folder: Path, split: Split) -> Iterator[Dialogue]:
    ids = {title: movie_id for movie_id, title in _titles(folder).items()}
    rows = [row for row in _rows(folder / "turns.csv") if row[0] == split]
    for dialogue_id, turns in itertools.groupby(rows, key=lambda row: row[1]):
        messages: list[Message] = []
        titles: dict[str, str] = {}
        for _, _, speaker, text in turns:
            for title in re.findall(r"{(.*?)}", text):
                titles[ids[title]] = title
                text = text.replace(f"{{{title}}}", f"@{ids[title]}")
            messages.append(Message(SENDERS[speaker], text))
        yield Dialogue(dialogue_id, tuple(messages), titles)


def _read_graph(folder: Path) -> RawGraph:
    titles = _titles(folder)
    genres = sorted({genre for _, genre in _rows(folder / "films.csv")})
    entity_ids = {name: index for index, name in enumerate([*titles.values(), *genres])}
    edges = [[entity_ids[title], 0, entity_ids[g]] for title, g in _rows(folder / "films.csv")]
    return RawGraph(
        entity_ids=entity_ids, movie_entities=titles, edges_E3=np.array(sorted(edges), np.int32)
    )


def _titles(folder: Path) -> dict[str, str]:
    """Movie id -> title."""
    return {str(line): title for line, (title, _) in enumerate(_rows(folder / "films.csv"), 1)}


def _rows(path: Path) -> list[list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a file of the toy corpus, got none.")
    with path.open(newline="") as file:
        return list(csv.reader(file))


CORPORA = {
    "toy": Corpus(
        name="toy",
        needs="the folder with films.csv and turns.csv",
        read_splits=_read_splits,
        make_tokenizer=train_tokenizer,
        read_graph=_read_graph,
        read_words=no_words,
    )
}
