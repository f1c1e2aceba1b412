from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from trainer.data.dialogue import Dialogue, Mention, Message, Sender
from trainer.data.dialogue_examples import ExampleOptions, Knowledge, merge_turns, to_examples
from trainer.data.entity_linker import EntityLinker, Name
from trainer.data.examples import ARRAY_FIELDS, Example, read_examples, write_examples
from trainer.data.knowledge_graph import KnowledgeGraph
from trainer.data.tokenizer import train_tokenizer
from trainer.data.vocabulary import Vocabulary, build_vocabulary
from trainer.data.word_graph import WordGraph

TITLES = {"10": "Heat (1995)", "20": "Alien (1979)"}
OPTIONS = ExampleOptions()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return build_vocabulary(train_tokenizer([], []), TITLES)


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    edges_E3 = np.array([[5, 0, 7]], dtype=np.int32)
    return Knowledge(
        graph=KnowledgeGraph(edges_E3, 8, 1, np.array([5, 7], dtype=np.int32)),
        words=WordGraph(("abcdef", "more", "or"), np.array([[0, 1], [1, 2]], np.int32)),
        linker=EntityLinker([Name("Al Pacino", 2, exact=False)]),
        dropped_items=frozenset(),
    )


def dialogue(*turns: tuple[str, str]) -> Dialogue:
    roles: dict[str, Sender] = {"S": "seeker", "R": "recommender"}
    messages = tuple(Message(roles[role], text) for role, text in turns)
    return Dialogue("d", messages, dict(TITLES))


def test_merge_turns_joins_messages_of_a_sender_with_a_space() -> None:
    turns = merge_turns(dialogue(("R", "Hi "), ("R", ""), ("R", "@10?"), ("S", "no"), ("R", "ok")))
    assert [(turn.sender, turn.pieces) for turn in turns] == [
        ("recommender", ["Hi", " ", Mention("10"), "?"]),
        ("seeker", ["no"]),
        ("recommender", ["ok"]),
    ]


def test_to_examples_makes_one_per_recommender_turn_with_an_earlier_turn(
    vocabulary: Vocabulary, knowledge: Knowledge
) -> None:
    talk = dialogue(
        ("R", "hi @20"), ("S", "more"), ("R", "@10 or @20"), ("R", "@10"), ("S", "@10 ok")
    )
    (example,) = to_examples(talk, vocabulary, knowledge, OPTIONS)
    heat, alien, end = vocabulary.item_token(0), vocabulary.item_token(1), vocabulary.eos_id
    # Base tokens of the untrained BPE are single letters, so the layout can be written down.
    ids = vocabulary.tokenizer.get_vocab()
    hi, more, o_r = (
        [ids[letter] for letter in word] for word in ("hi\u0120", "more", "\u0120or\u0120")
    )
    space = ids["\u0120"]
    assert example.example_id == "d:2"
    assert example.context_ids.tolist() == [*hi, alien, end, *more, end]
    assert example.response_ids.tolist() == [heat, *o_r, alien, space, heat, end]
    assert example.gold_items.tolist() == [0, 1, 0]
    assert example.context_entities.tolist() == [7]
    assert example.is_recommendation


def test_to_examples_links_people_and_finds_words_in_order(
    vocabulary: Vocabulary, knowledge: Knowledge
) -> None:
    talk = dialogue(("S", "al pacino, MORE"), ("R", "@10 or more"), ("S", "@10 or"), ("R", "bye"))
    first, second = to_examples(talk, vocabulary, knowledge, OPTIONS)
    assert first.context_entities.tolist() == [2]
    assert first.context_words.tolist() == [1]
    assert second.context_entities.tolist() == [2, 5]
    assert second.context_words.tolist() == [1, 2, 1, 2]
    unlinked = dataclasses.replace(knowledge, linker=None)
    (first, _) = to_examples(talk, vocabulary, unlinked, OPTIONS)
    assert first.context_entities.tolist() == []


def test_to_examples_without_dropped_items_keeps_their_tokens_alone(
    vocabulary: Vocabulary, knowledge: Knowledge
) -> None:
    talk = dialogue(("S", "@20 @10"), ("R", "@20 or @10"))
    dropping = dataclasses.replace(knowledge, dropped_items=frozenset([1]))
    (example,) = to_examples(talk, vocabulary, dropping, OPTIONS)
    (whole,) = to_examples(talk, vocabulary, knowledge, OPTIONS)
    assert example.gold_items.tolist() == [0]
    assert example.context_entities.tolist() == [5]
    assert example.response_ids.tolist() == whole.response_ids.tolist()
    assert whole.gold_items.tolist() == [1, 0]
    both = dataclasses.replace(knowledge, dropped_items=frozenset([0, 1]))
    (example,) = to_examples(talk, vocabulary, both, OPTIONS)
    assert example.gold_items.tolist() == []
    assert example.is_recommendation, "the response still holds the tokens of films"


def test_to_examples_skips_empty_responses_and_keeps_entities_distinct_in_order(
    vocabulary: Vocabulary, knowledge: Knowledge
) -> None:
    talk = dialogue(("S", "@20 @10 @20"), ("R", " "), ("S", ""), ("R", "bye"))
    (example,) = to_examples(talk, vocabulary, knowledge, OPTIONS)
    assert example.example_id == "d:3"
    assert example.context_entities.tolist() == [7, 5]
    assert example.context_ids.tolist()[-3:] == [vocabulary.eos_id] * 3
    assert not example.is_recommendation


def test_to_examples_cuts_context_left_and_response_right_but_not_gold(
    vocabulary: Vocabulary, knowledge: Knowledge
) -> None:
    talk = dialogue(("S", "abcdef"), ("R", "uvwxyz @10"))
    options = ExampleOptions(max_context=3, max_response=4)
    (cut,) = to_examples(talk, vocabulary, knowledge, options)
    (whole,) = to_examples(talk, vocabulary, knowledge, OPTIONS)
    assert cut.context_ids.tolist() == whole.context_ids.tolist()[-3:]
    assert cut.response_ids.tolist() == [*whole.response_ids.tolist()[:3], vocabulary.eos_id]
    assert cut.gold_items.tolist() == whole.gold_items.tolist() == [0]
    assert whole.is_recommendation
    assert not cut.is_recommendation, "no token that is kept is a film's"


def test_to_examples_of_dialogue_without_messages_is_empty(
    vocabulary: Vocabulary, knowledge: Knowledge
) -> None:
    assert to_examples(dialogue(), vocabulary, knowledge, OPTIONS) == []


def test_write_then_read_examples_keeps_every_array(tmp_path: Path) -> None:
    arrays = [np.array(values, dtype=np.int32) for values in ([1, 2], [3], [], [4], [0, 0])]
    write_examples(tmp_path / "train.jsonl", [Example("d:1", *arrays, is_recommendation=True)])
    (example,) = read_examples(tmp_path / "train.jsonl")
    assert example.example_id == "d:1" and example.is_recommendation
    for name, expected in zip(ARRAY_FIELDS, arrays, strict=True):
        array = getattr(example, name)
        assert array.dtype == np.int32 and array.tolist() == expected.tolist()


NO_CONTEXT = (
    '{"example_id": "d:1", "context_ids": [], "response_ids": [1], "context_entities": [], '
    '"context_words": [], "gold_items": [], "is_recommendation": false}'
)


@pytest.mark.parametrize("line", ["{", "[]", '{"example_id": "d:1"}', NO_CONTEXT])
def test_read_examples_with_bad_line_names_file_and_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "train.jsonl").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"train\.jsonl:1: the line must be an example"):
        read_examples(tmp_path / "train.jsonl")


def test_example_limits_that_leave_no_token_are_refused() -> None:
    with pytest.raises(ValueError, match="max_context must be at least 1, got 0"):
        ExampleOptions(max_context=0)
    with pytest.raises(ValueError, match="max_response must be at least 2"):
        ExampleOptions(max_response=1)
