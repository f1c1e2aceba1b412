from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.evaluation_fakes import write_tiny_data
from trainer.data.dialogue import Dialogue, Message
from trainer.data.dialogue_examples import merge_turns
from trainer.data.message_contexts import MessageContext, message_contexts
from trainer.data.prepared import PreparedData, load_prepared
from trainer.data.stored_dialogues import StoredDialogue, dialogues_name, write_dialogues


def slow_tokens(dialogue: StoredDialogue, index: int, data: PreparedData) -> list[int]:
    """All turns of the dialogue cut before a message, each with its end of text."""
    messages = tuple(Message(it.sender, it.text) for it in dialogue.messages[:index])
    titles = {movie: "" for it in dialogue.messages for movie in it.mentions}
    tokens: list[int] = []
    for turn in merge_turns(Dialogue(dialogue.dialogue_id, messages, titles)):
        tokens += [*data.vocabulary.encode(turn.pieces), data.vocabulary.eos_id]
    return tokens[-data.manifest.options.max_context :]


def films_before(dialogue: StoredDialogue, index: int, data: PreparedData) -> set[int]:
    """Entities of the films named before a message."""
    named = {movie for it in dialogue.messages[:index] for movie in it.mentions}
    return {int(data.graph.item_entities_I[data.vocabulary.item_index(it)]) for it in named}


def check_contexts(data: PreparedData, split: str) -> list[MessageContext]:
    """All contexts of a split, each compared with that of the cut dialogue."""
    contexts = message_contexts(data, split)
    examples = {example.example_id: example for example in data.examples(split)}
    place = {
        (dialogue.dialogue_id, message.message_id): (dialogue, index)
        for dialogue in data.dialogues(split)
        for index, message in enumerate(dialogue.messages)
    }
    for context in contexts:
        dialogue, index = place[context.dialogue_id, context.message_id]
        message = dialogue.messages[index]
        assert message.sender == "recommender" and index > 0
        assert context.example.context_ids.tolist() == slow_tokens(dialogue, index, data)
        entities = set(context.example.context_entities.tolist())
        films = films_before(dialogue, index, data)
        assert films <= entities or data.manifest.options.drop_unlinked
        assert context.num_films >= len(films)
        is_first = dialogue.messages[index - 1].sender == "seeker"
        assert context.stands_for_turn == is_first
        if is_first:
            expected = examples[f"{dialogue.dialogue_id}:{message.turn}"]
            # The same object is made anew by each reading of the file.
            assert context.example.example_id == expected.example_id
            assert np.array_equal(context.example.response_ids, expected.response_ids)
        else:
            assert context.example.is_recommendation == bool(message.mentions)
    standing = [it.example.example_id for it in contexts if it.stands_for_turn]
    assert standing == list(examples)
    return contexts


def test_contexts_are_those_of_the_dialogue_cut_before_the_message(prepared_dir: Path) -> None:
    assert check_contexts(load_prepared(prepared_dir), "test")


def test_a_message_inside_a_turn_sees_what_the_turn_said_before(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path)
    contexts = check_contexts(data, "test")
    assert [it.message_id for it in contexts] == ["01", "11", "21", "31", "41", "42", "51"]
    inside = contexts[5]
    assert data.vocabulary.decode_with_ids(inside.example.context_ids.tolist()) == "x @107see @109"
    assert inside.example.context_entities.tolist() == [1, 12, 14]
    assert (inside.stands_for_turn, inside.num_films) == (False, 2)
    assert inside.example.example_id == "d4/42"


def test_an_opening_turn_gives_its_later_messages_alone(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path)
    (first, *_) = data.dialogues("test")
    messages = [
        ("a", "recommender", "hi", (), 0),
        ("b", "recommender", "try @101", ("101",), 0),
        ("c", "recommender", "film or movie", (), 0),
        ("d", "seeker", "no", (), 1),
        # A turn without text is no example, and nothing to be answered.
        ("e", "recommender", "", (), 2),
    ]
    stored = StoredDialogue(
        "o", tuple(type(first.messages[0])(*it) for it in messages), (), first.questionnaires
    )
    path = tmp_path / dialogues_name("test")
    digest = write_dialogues(path, [stored])
    data.manifest.dialogue_digests["test"] = digest
    contexts = message_contexts(data, "test")
    assert [it.message_id for it in contexts] == ["b", "c"]
    assert [it.stands_for_turn for it in contexts] == [False, False]
    texts = [data.vocabulary.decode_with_ids(it.example.context_ids.tolist()) for it in contexts]
    assert texts == ["hi", "hi try @101"]
    assert [it.example.context_entities.tolist() for it in contexts] == [[], [6]]
    assert [it.num_films for it in contexts] == [0, 1]


@pytest.mark.redial
@pytest.mark.everything
def test_contexts_of_real_dialogues_are_those_of_the_cut_dialogue(redial_prepared: Path) -> None:
    contexts = check_contexts(load_prepared(redial_prepared), "test")
    # The SIGIR '26 view's instances are among them.
    assert sum(context.example.is_recommendation for context in contexts) >= 637
