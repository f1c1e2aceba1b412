"""The joint vocabulary as one tokenizer of transformers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.support.base_tokenizers import BASE_TOKENIZERS
from tests.support.evaluation_fakes import tiny_vocabulary
from trainer.common.atomic import write_json
from trainer.data.dialogue import Mention, Piece
from trainer.data.joint_tokenizer import control_tokens, film_spellings, write_joint_tokenizer
from trainer.data.text_form import puts_space_in_front
from trainer.data.vocabulary import Vocabulary, build_vocabulary

TITLES = {
    "1": "Titanic (1997)",
    "2": "Titanic (1997)",
    "3": "It",
    "4": "Léon",
    "5": 'The "Burbs" (1989)',
    "6": "Room @12",
    "7": "Amélie (2001)",
    "8": "Two\nLines (1999)",
    "9": "",
}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return build_vocabulary(tiny_vocabulary(1).tokenizer, TITLES)


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("joint")
    write_joint_tokenizer(folder, vocabulary, max_tokens=96)
    # AutoTokenizer looks at the model's type; GPT-2's own class would lose the films.
    write_json(folder / "config.json", {"model_type": "gpt2"})
    return AutoTokenizer.from_pretrained(folder)


def test_there_is_a_token_for_each_row_of_the_model(vocabulary: Vocabulary, tokenizer) -> None:
    assert len(tokenizer) == vocabulary.size
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocabulary.size))
    rec, gen, pad = tokenizer.convert_tokens_to_ids(list(control_tokens(vocabulary)))
    assert (rec, gen, pad) == (vocabulary.rec_id, vocabulary.gen_id, vocabulary.pad_id)
    assert tokenizer.pad_token_id == vocabulary.pad_id
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == vocabulary.eos_id
    assert tokenizer.model_max_length == 96


def test_film_tokens_decode_to_their_titles(vocabulary: Vocabulary, tokenizer) -> None:
    films = [tokenizer.decode([vocabulary.item_token(i)]) for i in range(vocabulary.num_items)]
    assert films == list(TITLES.values())


def test_any_ids_decode_to_the_text_that_we_give(vocabulary: Vocabulary, tokenizer) -> None:
    draw = random.Random(0)
    for _ in range(2000):
        ids = [
            draw.choice([draw.randrange(vocabulary.size), draw.randrange(256, vocabulary.size)])
            for _ in range(draw.randrange(1, 9))
        ]
        assert tokenizer.decode(ids, skip_special_tokens=True) == vocabulary.decode(ids), ids


def test_text_with_films_in_quotes_is_encoded_as_we_do(vocabulary: Vocabulary, tokenizer) -> None:
    text = 'I saw "Titanic (1997)", and "Amélie (2001)" with "It @3"'
    pieces = ["I saw ", Mention("1"), ", and ", Mention("7"), " with ", Mention("3")]
    assert tokenizer(text)["input_ids"] == vocabulary.encode(pieces)
    assert film_spellings(vocabulary)[1] == '"Titanic (1997) @2"'


@pytest.mark.parametrize("text", ["Titanic (1997)", '"It"', '"titanic (1997)"', "@1", "Léon", '""'])
def test_other_text_is_no_film(vocabulary: Vocabulary, tokenizer, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids == vocabulary.encode([text])
    assert not any(vocabulary.is_item(token_id) for token_id in ids)


def test_spelled_control_tokens_stay_text_if_the_caller_says_so(
    vocabulary: Vocabulary, tokenizer
) -> None:
    text = "[REC] <pad><|endoftext|>"
    assert vocabulary.rec_id in tokenizer(text)["input_ids"]
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert ids == vocabulary.encode([text])


def test_base_vocabulary_with_tokens_of_the_same_name_keeps_them() -> None:
    base = tiny_vocabulary(1).tokenizer
    base.add_tokens(["<pad>", "[REC]", '"Titanic (1997)"'])
    vocabulary = build_vocabulary(base, TITLES)
    assert control_tokens(vocabulary) == ("[REC]_", "[GEN]", "<pad>_")
    assert film_spellings(vocabulary)[0] == '"Titanic (1997) @1"'


@pytest.mark.parametrize("kind", BASE_TOKENIZERS)
def test_prompt_has_the_tokens_of_training_whatever_the_base_tokenizer(
    kind: str, tmp_path: Path
) -> None:
    vocabulary = build_vocabulary(BASE_TOKENIZERS[kind](), TITLES)
    write_joint_tokenizer(tmp_path, vocabulary, max_tokens=96)
    write_json(tmp_path / "config.json", {"model_type": "gpt2"})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    draw, film = random.Random(0), Mention("1")
    turns: list[list[Piece]] = [
        ["is it funny?"],
        ["I liked ", film, " is it"],
        [film, "? so is it"],
        [film, " ", film, " is"],
        ["(", film, ")is so"],
    ]
    for _ in range(50):
        prompt = draw.choices(turns, k=3)
        text = "".join(written(turn, vocabulary) for turn in prompt)
        ids = [it for turn in prompt for it in (*vocabulary.encode(turn), vocabulary.eos_id)]
        assert tokenizer(text)["input_ids"] == ids, prompt
    assert puts_space_in_front(vocabulary.tokenizer) == (kind not in ("metaspace never", "plain"))
    for _ in range(200):
        # Not 0, the unknown token: transformers leaves it out as a special one.
        ids = [draw.randrange(1, vocabulary.size) for _ in range(draw.randrange(1, 7))]
        assert tokenizer.decode(ids, skip_special_tokens=True) == vocabulary.decode(ids), ids


def written(turn: list[Piece], vocabulary: Vocabulary) -> str:
    """A turn as the model card tells people to write it."""
    spelled = dict(zip(vocabulary.movie_ids, film_spellings(vocabulary), strict=True))
    text = "".join(it if isinstance(it, str) else spelled[it.movie_id] for it in turn)
    in_front = puts_space_in_front(vocabulary.tokenizer) and isinstance(turn[0], str)
    return f"{' ' * in_front}{text}{vocabulary.tokenizer.eos_token}"
