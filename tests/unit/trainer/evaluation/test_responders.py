from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.evaluation_fakes import (
    NUM_ITEMS,
    tiny_vocabulary,
    write_recommender,
    write_student,
    write_tiny_data,
)
from trainer.data.bags import Bags
from trainer.data.dialogue import Mention, split_mentions
from trainer.data.message_contexts import MessageContext, message_contexts
from trainer.data.prepared import PreparedData
from trainer.evaluation.answering import answer_all, first_dialogues
from trainer.evaluation.generate import GenerateConfig, GeneratedResponse, ItemSlot
from trainer.evaluation.likelihood import gold_nlls
from trainer.evaluation.loaded_model import load_model
from trainer.evaluation.responders import load_responder, to_record
from trainer.models.frozen_recommender import load_recommender


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def contexts(data: PreparedData) -> list[MessageContext]:
    return message_contexts(data, "test")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, data: PreparedData) -> Path:
    folder = tmp_path_factory.mktemp("student")
    write_student(folder, data.vocabulary, seed=3)
    return folder


def test_records_are_of_the_messages_asked_in_their_order(
    student: Path, data: PreparedData, contexts: list[MessageContext]
) -> None:
    responder = load_responder(student, data, GenerateConfig(), "oracle")
    records = answer_all(responder, contexts, 2, title="test")
    assert [it.key for it in records] == [(it.dialogue_id, it.message_id) for it in contexts]
    one_by_one = [responder.respond([context])[0] for context in contexts]
    assert [it.text for it in records] == [it.text for it in one_by_one]
    assert [it.slots for it in records] == [it.slots for it in one_by_one]
    assert [it.ranking for it in records] == [it.ranking for it in one_by_one]
    assert any(record.slots for record in records)


def test_a_record_names_the_films_of_its_text_and_ranks_them_first(
    student: Path, data: PreparedData, contexts: list[MessageContext]
) -> None:
    responder = load_responder(student, data, GenerateConfig(), "oracle")
    for context, record in zip(
        contexts, answer_all(responder, contexts, 8, title="test"), strict=True
    ):
        pieces = split_mentions(record.text, frozenset(data.vocabulary.movie_ids))
        named = [piece.movie_id for piece in pieces if isinstance(piece, Mention)]
        assert named == [slot.item for slot in record.slots]
        assert named == [slot.ranked[0] for slot in record.slots]
        for films in (record.ranking or (), *(slot.ranked for slot in record.slots)):
            assert len(films) == len(set(films)) == 50 + context.num_films
        assert record.tokens is not None and 1 <= record.tokens <= 30
        assert record.seconds is None


def test_first_messages_alone_have_the_likelihood_of_the_gold_response(
    student: Path, data: PreparedData, contexts: list[MessageContext]
) -> None:
    loaded = load_model(student)
    records = answer_all(
        load_responder(student, data, GenerateConfig(), "oracle"), contexts, 3, title="test"
    )
    for context, record in zip(contexts, records, strict=True):
        if context.stands_for_turn:
            (nll,) = gold_nlls(loaded, [context.example])
            assert record.nll == pytest.approx(nll, rel=1e-5)
            assert record.gold_tokens == len(context.example.response_ids)
        else:
            assert (record.nll, record.gold_tokens) == (None, None)


def test_to_record_keeps_what_a_response_says(
    data: PreparedData, contexts: list[MessageContext]
) -> None:
    vocabulary, film = data.vocabulary, data.vocabulary.item_token
    # A film glued to a number, and an @number that is none.
    tokens = (*vocabulary.encode(["see "]), film(4), *vocabulary.encode(["2 or @103"]), film(0))
    response = GeneratedResponse(
        example_id="a",
        token_ids=tuple(tokens),
        is_ended=True,
        item_slots=(
            ItemSlot(4, np.array([4, 1], np.int32)),
            ItemSlot(0, np.array([9, 0], np.int32)),
        ),
        ranking=np.array([3, 2], np.int32),
    )
    record = to_record(contexts[0], response, 2.5, vocabulary)
    assert record.text == "see @104 2 or @ 103 @100"
    assert [(slot.item, slot.ranked) for slot in record.slots] == [
        ("104", ("104", "101")),
        ("100", ("109", "100")),
    ]
    assert record.ranking == ("103", "102")
    assert (record.tokens, record.nll, record.gold_tokens) == (len(tokens) + 1, 2.5, 4)


def test_a_recommendation_teacher_ranks_and_says_nothing(
    tmp_path: Path, data: PreparedData, contexts: list[MessageContext]
) -> None:
    folder = write_recommender(tmp_path, data, seed=0)
    records = answer_all(
        load_responder(folder, data, GenerateConfig(), None), contexts, 4, title="test"
    )
    recommender, _ = load_recommender(folder)
    for context, record in zip(contexts, records, strict=True):
        example = context.example
        with torch.no_grad():
            log_probs_I = recommender(
                Bags.of([example.context_entities]), Bags.of([example.context_words])
            )[0]
        best = log_probs_I.argsort(descending=True)[: 50 + context.num_films].tolist()
        assert record.ranking == tuple(data.vocabulary.movie_ids[item] for item in best)
        assert (record.text, record.slots, record.tokens, record.nll) == ("", (), None, None)


def test_first_dialogues_keeps_all_messages_of_each(contexts: list[MessageContext]) -> None:
    assert first_dialogues(contexts, None) == contexts
    kept = first_dialogues(contexts, 5)
    assert [it.message_id for it in kept] == ["01", "11", "21", "31", "41", "42"]


def test_a_context_that_leaves_no_room_is_refused_before_any_work(
    student: Path, data: PreparedData, contexts: list[MessageContext]
) -> None:
    responder = load_responder(student, data, GenerateConfig(max_new_tokens=93), "oracle")
    with pytest.raises(ValueError, match=r"the prompt of d0:1 must have 1 to 3 tokens, got 4"):
        answer_all(responder, contexts, 4, title="test")


def test_a_system_of_another_vocabulary_is_refused(tmp_path: Path, data: PreparedData) -> None:
    other = tiny_vocabulary(NUM_ITEMS - 1)
    write_student(tmp_path, other, seed=1)
    with pytest.raises(ValueError, match=f"{data.vocabulary.digest}, got {other.digest}"):
        load_responder(tmp_path, data, GenerateConfig(), "oracle")


def test_a_digest_says_what_answers_depend_on(tmp_path: Path, data: PreparedData) -> None:
    write_student(tmp_path / "a", data.vocabulary, seed=1)
    write_student(tmp_path / "b", data.vocabulary, seed=2)
    digests = [
        load_responder(tmp_path / name, data, GenerateConfig(), "oracle").digest
        for name in ("a", "a", "b")
    ]
    assert digests[0] == digests[1] != digests[2]
