"""A conversation with a model, and the command that holds it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.support.evaluation_fakes import write_dialogue_teacher, write_student, write_tiny_data
from trainer.chat import PROMPT, chat, main, typed_lines
from trainer.data.action_form import ACTION_HISTORY, ACTION_LOSS, ACTIONS
from trainer.data.prepared import PreparedData
from trainer.data.word_graph import WordGraph
from trainer.evaluation.conversation import SAID_NOTHING, Conversation, Said
from trainer.evaluation.generate import GenerateConfig
from trainer.evaluation.loaded_model import load_model

ONE = GenerateConfig(batch_size=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def teacher(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    write_dialogue_teacher(folder, data.vocabulary, seed=4)
    return folder


@pytest.fixture
def conversation(teacher: Path) -> Conversation:
    return Conversation(load_model(teacher), None, ONE)


def spoken(conversation: Conversation, *lines: str, as_json: bool = False) -> str:
    written = io.StringIO()
    chat(conversation, lines, written.write, as_json=as_json)
    return written.getvalue()


def test_chat_answers_each_line_and_passes_over_blank_ones(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    text = spoken(conversation, "hello", "  ", 'I liked "Film 3 (1903)" and @104')
    assert [line[:13] for line in text.splitlines()] == ["recommender> "] * 2
    # No bar for each turn.
    assert capsys.readouterr().err == ""


def test_chat_longer_than_the_model_forgets_the_beginning(conversation: Conversation) -> None:
    answers = [conversation.answer("word " * 12) for _ in range(5)]
    # More than the model can attend to was said, and each turn was answered nevertheless.
    assert len(conversation.said.tokens) > 96
    assert all(answer.text or answer.reason for answer in answers)


@pytest.mark.everything
def test_chat_of_a_model_that_reads_earlier_actions_leaves_room_for_them(
    tmp_path: Path, data: PreparedData
) -> None:
    names = (ACTIONS, ACTION_HISTORY, ACTION_LOSS)
    write_dialogue_teacher(tmp_path, data.vocabulary, seed=4, actions=names)
    conversation = Conversation(load_model(tmp_path), None, ONE)
    # Turns of a token or two: every other one has an action token besides.
    answers = [conversation.answer("a") for _ in range(40)]
    assert len(conversation.said.tokens) > 96
    assert {answer.action for answer in answers} <= {"recommend", "converse"}


def test_conversation_notes_entities_and_words_as_prepared_examples_have_them(
    teacher: Path, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary, texts = data.vocabulary, []
    monkeypatch.setattr(WordGraph, "find", lambda self, text: texts.append(text) or [len(texts)])
    conversation = Conversation(load_model(teacher), None, GenerateConfig(), data)
    ids = [*vocabulary.encode(["see "]), vocabulary.first_item_id + 5]
    monkeypatch.setattr(conversation, "_respond", lambda: (None, ids))
    answer = conversation.answer('I liked "Film 3 (1903)" and @104')
    assert answer.text == "see Film 5 (1905)"
    assert answer.films == (("105", "Film 5 (1905)"),)
    assert answer.heard == (("103", "Film 3 (1903)"), ("104", "Film 4 (1904)"))
    entities = tuple(int(data.graph.item_entities_I[item]) for item in (3, 4, 5))
    assert conversation.said.entities == entities
    assert conversation.said.words == (1, 2)
    # Words of the titles are none of the context's.
    assert [text.split() for text in texts] == [["I", "liked", "and"], ["see"]]


def test_conversation_with_oracle_is_refused(data: PreparedData, tmp_path: Path) -> None:
    write_student(tmp_path, data.vocabulary, seed=3)
    with pytest.raises(ValueError, match="nobody knows the gold action"):
        Conversation(load_model(tmp_path), "oracle", GenerateConfig())


@pytest.mark.parametrize("ids", [[], "space"])
def test_answer_without_a_word_has_a_reason(
    conversation: Conversation,
    data: PreparedData,
    monkeypatch: pytest.MonkeyPatch,
    ids: list[int] | str,
) -> None:
    tokens = data.vocabulary.encode(["  "]) if ids else []
    monkeypatch.setattr(conversation, "_respond", lambda: (None, tokens))
    assert conversation.answer("hi").reason == SAID_NOTHING
    assert spoken(conversation, "hi") == f"recommender> ({SAID_NOTHING})\n"


def test_undo_and_new_bring_back_what_was_said_before(conversation: Conversation) -> None:
    first = conversation.answer("hello")
    said = conversation.said
    second = conversation.answer("Film 3 (1903) please")
    assert conversation.undo()
    assert conversation.said == said
    assert conversation.answer("Film 3 (1903) please") == second
    conversation.start_over()
    assert conversation.said == Said()
    assert not conversation.undo()
    assert conversation.answer("hello") == first


def test_commands_are_no_text_for_the_model(conversation: Conversation) -> None:
    text = spoken(conversation, "/undo", "hi", "/undo", "/help me", "/new", "/quit", "hi")
    lines = text.splitlines()
    assert lines[0] == "(there is nothing to take back)"
    assert lines[2] == "(taken back)"
    assert lines[3].startswith("(/help is no command: /new starts over")
    assert lines[4:] == ["(a new conversation)"]
    assert conversation.said == Said()


def test_hints_stand_before_the_answer(conversation: Conversation) -> None:
    lines = spoken(conversation, 'I liked "Film 3"').splitlines()
    assert lines[0] == '(no film is called Film 3. Do you mean "Film 3 (1903)"?)'
    assert lines[1].startswith("recommender> ")


def test_json_has_an_object_for_each_line(conversation: Conversation) -> None:
    text = spoken(conversation, "I liked film 3 (1903)", "/new", as_json=True)
    answer, command = map(json.loads, text.splitlines())
    assert answer["heard"] == [{"id": "103", "title": "Film 3 (1903)"}]
    assert set(answer) == {"text", "answer", "reason", "films", "heard", "hints", "action"}
    assert command == {"command": "/new", "said": "(a new conversation)"}


class Terminal(io.StringIO):
    """A standard input at which somebody types, and leaves in one of two ways."""

    def __init__(self, text: str, *, leaves_by: type[BaseException] | None = None) -> None:
        super().__init__(text)
        self._leaves_by = leaves_by

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1, /) -> str:
        line = super().readline(-1 if size is None else size)
        if not line and self._leaves_by is not None:
            raise self._leaves_by
        return line


@pytest.mark.parametrize("leaves_by", [None, KeyboardInterrupt])
def test_json_at_a_terminal_has_objects_alone_in_stdout(
    conversation: Conversation,
    leaves_by: type[BaseException] | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "trainer.evaluation.conversation.load_conversation", lambda *_: conversation
    )
    monkeypatch.setattr("sys.stdin", Terminal("hello\n/new\n", leaves_by=leaves_by))
    main(["--checkpoint", "model", "--json"])
    said = capsys.readouterr()
    objects = [json.loads(line) for line in said.out.splitlines()]
    assert [set(it) & {"text", "command"} for it in objects] == [{"text"}, {"command"}]
    assert said.err == f"{PROMPT * 3}\n"


def test_prompt_at_a_terminal_stands_before_what_is_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("hello\n"))
    assert list(typed_lines()) == ["hello"]
    assert capsys.readouterr() == (f"{PROMPT * 2}\n", "")


def test_bytes_that_are_no_text_do_not_end_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9\nhello\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", stdin)
    assert list(typed_lines()) == ["caf\ufffd", "hello"]
