"""The folder of an exported student: what transformers makes of it, and what we refuse."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from tests.support.base_tokenizers import BASE_TOKENIZERS
from tests.support.evaluation_fakes import (
    tiny_examples,
    tiny_vocabulary,
    write_classifier,
    write_student,
)
from trainer.common.atomic import write_json
from trainer.common.errors import InputError, MissingError
from trainer.common.text_files import read_json_object
from trainer.data.dialogue import Mention
from trainer.data.model_input import SequenceInput
from trainer.data.vocabulary import Vocabulary, build_vocabulary
from trainer.evaluation.generate import GenerateConfig, Prompt, generate
from trainer.evaluation.loaded_model import load_model, resolve_classifier
from trainer.models.model_readme import ModelFacts, write_readme
from trainer.models.student_card import (
    copy_classifier,
    read_student_card,
    write_student_card,
)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return tiny_vocabulary()


@pytest.fixture(scope="module")
def folder(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    write_student(folder, vocabulary, seed=3)
    return folder


def test_transformers_generates_what_we_generate(folder: Path, vocabulary: Vocabulary) -> None:
    loaded = load_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert len(tokenizer) == vocabulary.size == model.get_output_embeddings().weight.shape[0]
    prompts = [
        loaded.prompt(example, recommends=recommends)
        for example in tiny_examples(vocabulary)
        for recommends in (True, False)
    ]
    ours = generate(loaded.model, vocabulary, prompts, GenerateConfig(), title="test")
    assert any(response.item_slots for response in ours)
    for prompt, response in zip(prompts, ours, strict=True):
        ids_BL = torch.from_numpy(prompt.given.tokens.astype(np.int64))[None]
        answer_BT = model.generate(ids_BL)[:, ids_BL.shape[1] :]
        text = tokenizer.decode(answer_BT[0], skip_special_tokens=True)
        assert text.strip() == vocabulary.decode(response.token_ids).strip()


def test_pipeline_answers_as_we_do(folder: Path, vocabulary: Vocabulary) -> None:
    answer = pipeline("text-generation", str(folder), device="cpu")
    film, eos, rec = vocabulary.item_token(3), vocabulary.eos_id, vocabulary.rec_id
    ids = [*vocabulary.encode(["I liked ", Mention("103")]), eos, rec]
    assert ids[-3:] == [film, eos, rec]
    loaded = load_model(folder)
    prompt = Prompt("a", SequenceInput.at_end(num_rows=1, tokens=np.array(ids, np.int32)), 1)
    (ours,) = generate(loaded.model, vocabulary, [prompt], GenerateConfig(), title="test")
    text = 'I liked "Film 3 (1903)"<|endoftext|>[REC]'
    (result,) = answer(text, return_full_text=False)
    assert result["generated_text"].strip() == vocabulary.decode(ours.token_ids).strip() != ""


def test_config_names_the_tokens_and_generation_is_ours(
    folder: Path, vocabulary: Vocabulary
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    for config in (model.config, model.generation_config):
        assert config.pad_token_id == vocabulary.pad_id
        assert config.bos_token_id == config.eos_token_id == vocabulary.eos_id
    assert model.generation_config.max_new_tokens == GenerateConfig().max_new_tokens
    special = [vocabulary.rec_id, vocabulary.gen_id, vocabulary.pad_id]
    assert model.generation_config.suppress_tokens == special


def test_every_file_can_be_read_by_whom_the_umask_says(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    before = os.umask(0o027)
    try:
        write_student(tmp_path / "model", vocabulary, seed=1)
    finally:
        os.umask(before)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "model").rglob("*")
        if path.is_file()
    }
    assert set(modes.values()) == {0o640}, modes


def test_folder_is_whole_wherever_it_is_copied(vocabulary: Vocabulary, tmp_path: Path) -> None:
    write_classifier(tmp_path / "elsewhere", vocabulary, seed=1)
    write_student(tmp_path / "run" / "model", vocabulary, seed=3)
    name = copy_classifier(tmp_path / "elsewhere", tmp_path / "run" / "model")
    card = read_student_card(tmp_path / "run" / "model")
    write_student_card(tmp_path / "run" / "model", dataclasses.replace(card, classifier=name))
    shutil.copytree(tmp_path / "run" / "model", tmp_path / "copy")
    shutil.rmtree(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "run")
    loaded = load_model(tmp_path / "copy")
    assert resolve_classifier(loaded, None) == str(tmp_path / "copy" / "classifier")


def test_file_with_other_bytes_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    names = read_student_card(folder).files
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert expected | {"tokenizer_config.json", "vocabulary.json"} <= set(names)
    for name in names:
        copy = Path(shutil.copytree(folder, tmp_path / name.replace("/", "-")))
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(InputError, match="the file was changed or torn") as caught:
            load_model(copy)
        assert str(caught.value).startswith(f"{copy / name} must have digest ")
        (copy / name).unlink()
        with pytest.raises(MissingError, match=f"must hold {name}, got none"):
            load_model(copy)


def test_readme_may_be_written_by_hand(folder: Path, vocabulary: Vocabulary) -> None:
    (folder / "README.md").write_text("Ours.")
    assert load_model(folder).vocabulary.digest == vocabulary.digest


def test_readme_tells_use_licence_and_credit(folder: Path, vocabulary: Vocabulary) -> None:
    facts = ModelFacts(source="redial", credit="ReDial (CC BY 4.0)", pretrained="/home/me/base")
    write_readme(folder, vocabulary, read_student_card(folder), facts)
    text = (folder / "README.md").read_text()
    for part in ("ReDial (CC BY 4.0)", "Apache-2.0", '"Film 0 (1900)"', "[REC]", "`base`"):
        assert part in text
    assert "/home" not in text
    # The example of the README runs as it stands.
    lines = text[text.index("    from transformers") :].split("\n\nEvery turn")[0].splitlines()
    source = "\n".join(line[4:] for line in lines).replace("FOLDER", str(folder))
    exec(source, {})


@pytest.mark.parametrize("classifier", [None, "classifier"])
def test_readme_tells_of_a_classifier_that_is_in_the_folder_alone(
    classifier: str | None, folder: Path, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    card = dataclasses.replace(read_student_card(copy), action_tokens=True, classifier=classifier)
    write_readme(copy, vocabulary, card, ModelFacts(source="redial", credit="", pretrained=None))
    text = (copy / "README.md").read_text()
    assert ("`classifier/` chooses between them" in text) == (classifier is not None)
    commands = re.findall("    python -m trainer.*", text)
    asked = [line.endswith(" --classifier CLASSIFIER_FOLDER") for line in commands]
    assert asked == [classifier is None] * 2


@pytest.mark.parametrize("kind", ["prepending", "plain"])
def test_readme_tells_where_a_prompt_has_a_space_in_front(kind: str, tmp_path: Path) -> None:
    vocabulary = build_vocabulary(BASE_TOKENIZERS[kind](), {"1": "Heat (1995)"})
    write_student(tmp_path, vocabulary, seed=1)
    facts = ModelFacts(source="redial", credit="", pretrained=None)
    write_readme(tmp_path, vocabulary, read_student_card(tmp_path), facts)
    text = (tmp_path / "README.md").read_text()
    (prompt,) = re.findall(r"answer\('(.*)', return", text)
    spaced = kind == "prepending"
    assert prompt.startswith(" I liked " if spaced else "I liked ")
    assert ("Start each turn of text with a space" in text) == spaced


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "must hold a JSON object, got a list"),
        ("{", "must be JSON"),
        ("{}", "got no vocabulary_digest"),
        ('{"vocabulary_digest": 3}', "got no graph_digest"),
    ],
)
def test_card_that_is_none_is_one_line(
    folder: Path, tmp_path: Path, text: str, problem: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "student.json").write_text(text)
    with pytest.raises(InputError, match=problem):
        load_model(copy)


@pytest.mark.parametrize("key", ["vocabulary_digest", "action_tokens", "classifier", "files"])
def test_card_with_a_value_of_another_type_names_the_key(
    folder: Path, tmp_path: Path, key: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    write_json(copy / "student.json", read_json_object(copy / "student.json") | {key: 3})
    with pytest.raises(InputError, match=f"got 3 for {key}: "):
        load_model(copy)
