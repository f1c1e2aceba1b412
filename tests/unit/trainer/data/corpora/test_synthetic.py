from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from trainer.data.corpora.redial_lines import read_dialogues
from trainer.data.corpora.synthetic import CorpusSizes, write_corpus
from trainer.data.corpora.synthetic_world import Film, build_world
from trainer.data.dialogue import Dialogue, Mention, split_mentions
from trainer.data.graph_files import read_graph_files
from trainer.data.tokenizer import train_tokenizer

SIZES = CorpusSizes(train=120, valid=5, test=40)
NAMES = {
    "train_data.jsonl",
    "valid_data.jsonl",
    "test_data.jsonl",
    "dbpedia_subkg.json",
    "entity2id.json",
    "item_ids.json",
    "movie2entity.json",
    "conceptnet-assertions-subset.csv.gz",
}


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, seed=3, sizes=SIZES)
    return folder


def dialogues(folder: Path, split: str) -> list[Dialogue]:
    read = read_dialogues(folder / f"{split}_data.jsonl")
    return [it for it in read if isinstance(it, Dialogue)]


def mentions(dialogue: Dialogue) -> list[tuple[str, str]]:
    return [
        (message.sender, piece.movie_id)
        for message in dialogue.messages
        for piece in split_mentions(message.text, dialogue.titles)
        if isinstance(piece, Mention)
    ]


def test_write_corpus_writes_the_files_of_redial_that_pass_validation(corpus_dir: Path) -> None:
    assert {path.name for path in corpus_dir.iterdir()} == NAMES
    movies = read_graph_files(corpus_dir).movie_entities
    graph = read_graph_files(corpus_dir).graph(sorted(movies, key=int))
    assert len(graph.item_entities_I) == len(movies)
    assert 0 < sum(entity == movie for movie, entity in movies.items()) < len(movies) // 4
    counts = [len(dialogues(corpus_dir, split)) for split in ("train", "valid", "test")]
    assert counts == [120, 5, 40]


def test_write_corpus_leaves_no_slot_or_choice_in_the_text(corpus_dir: Path) -> None:
    for dialogue in dialogues(corpus_dir, "train"):
        for message in dialogue.messages:
            assert not set("{}[]|") & set(message.text), message.text


def test_write_corpus_with_same_seed_writes_same_bytes(corpus_dir: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "same", seed=3, sizes=SIZES)
    write_corpus(tmp_path / "other", seed=4, sizes=SIZES)
    for name in NAMES:
        assert (tmp_path / "same" / name).read_bytes() == (corpus_dir / name).read_bytes()
    name = "train_data.jsonl"
    assert (tmp_path / "other" / name).read_bytes() != (corpus_dir / name).read_bytes()


def test_write_corpus_concepts_have_conceptnet_columns(corpus_dir: Path) -> None:
    with gzip.open(corpus_dir / "conceptnet-assertions-subset.csv.gz", "rt") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    assert len(rows) > 30
    for uri, relation, start, end, about in rows:
        assert uri == f"/a/[{relation}/,{start}/,{end}/]"
        assert start.startswith("/c/en/") and json.loads(about)["weight"] == 1.0


def test_recommendations_share_people_and_genres_with_what_was_liked(corpus_dir: Path) -> None:
    # The same generator draws the same world first.
    world = build_world(np.random.default_rng(3))
    films: dict[str, Film] = {film.movie_id: film for film in world.films}
    shared, drawn = [], []
    everyone = list(films)
    for dialogue in dialogues(corpus_dir, "test"):
        named = mentions(dialogue)
        liked = [movie for sender, movie in named if sender == "seeker"]
        for sender, movie in named:
            if sender == "recommender":
                assert movie not in liked
                shared.append(_best_overlap(films[movie], [films[m] for m in liked]))
        other = films[everyone[len(drawn) % len(everyone)]]
        drawn.append(_best_overlap(other, [films[m] for m in liked]))
    assert np.mean(shared) > 2 * np.mean(drawn)


def test_about_half_of_the_recommender_turns_mention_a_film(corpus_dir: Path) -> None:
    counts: Counter[bool] = Counter()
    for dialogue in dialogues(corpus_dir, "train"):
        for message in dialogue.messages[1:]:
            if message.sender == "recommender":
                counts["@" in message.text] += 1
    assert 0.3 < counts[True] / counts.total() < 0.6


def test_train_tokenizer_is_small_repeatable_and_has_an_end_of_text(corpus_dir: Path) -> None:
    train = dialogues(corpus_dir, "train")
    first, second = (train_tokenizer(train, ["Heat (1995)"]) for _ in range(2))
    assert 800 <= len(first) <= 2000
    assert first.get_vocab() == second.get_vocab()
    assert first.eos_token == "<|endoftext|>"


def test_corpus_sizes_scale_and_refuse_none() -> None:
    assert CorpusSizes.for_train(600) == CorpusSizes()
    assert CorpusSizes.for_train(1) == CorpusSizes(train=1, valid=1, test=1)
    with pytest.raises(ValueError, match="dialogues must be at least 1"):
        CorpusSizes.for_train(0)


def _best_overlap(film: Film, others: list[Film]) -> int:
    def traits(f: Film) -> set[tuple[str, int]]:
        people = {("person", person) for person in (f.director, *f.actors)}
        return people | {("genre", genre) for genre in f.genres}

    return max(len(traits(film) & traits(other)) for other in others)
