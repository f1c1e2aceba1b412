from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from protos.fingerprint import digest_strings
from tests.support.base_tokenizers import BASE_TOKENIZERS
from trainer.common.errors import InputError
from trainer.data.dialogue import Mention
from trainer.data.text_form import form_digest
from trainer.data.tokenizer import as_loaded, load_tokenizer, train_tokenizer
from trainer.data.vocabulary import Vocabulary, build_vocabulary

TITLES = {"200": "Heat (1995)", "99": "Alien (1979)", "1000": "Up (2009)"}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return build_vocabulary(train_tokenizer([], ["have you seen it, hello there"] * 3), TITLES)


def word_tokenizer(vocab: dict[str, int], **kwargs: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel(vocab, unk_token=next(iter(vocab))))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")  # pyright: ignore
    backend.decoder = decoders.Fuse()  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=backend, **kwargs)


def test_vocabulary_ids_are_base_then_items_by_number_then_specials(vocabulary: Vocabulary) -> None:
    base = vocabulary.base_size
    assert vocabulary.movie_ids == ("99", "200", "1000")
    assert vocabulary.titles == ("Alien (1979)", "Heat (1995)", "Up (2009)")
    assert [vocabulary.item_token(i) for i in range(3)] == [base, base + 1, base + 2]
    assert (vocabulary.rec_id, vocabulary.gen_id, vocabulary.pad_id) == (
        base + 3,
        base + 4,
        base + 5,
    )
    assert vocabulary.size == base + 6
    edges = (base - 1, base, base + 2, base + 3)
    assert [vocabulary.is_item(i) for i in edges] == [False, True, True, False]


def test_encode_makes_space_before_a_mention_one_token(vocabulary: Vocabulary) -> None:
    item = vocabulary.item_token(vocabulary.item_index("200"))
    ids = vocabulary.encode(["have you seen  ", Mention("200"), " there"])
    (space,) = vocabulary.encode([" "])
    words = vocabulary.encode(["have you seen"])
    assert ids == [*words, space, item, *vocabulary.encode([" there"])]
    assert vocabulary.decode(ids) == "have you seen Heat (1995) there"


def test_encode_and_decode_leave_a_glued_mention_glued(vocabulary: Vocabulary) -> None:
    item = vocabulary.item_token(vocabulary.item_index("200"))
    ids = vocabulary.encode(["(", Mention("200"), ".it"])
    assert ids == [*vocabulary.encode(["("]), item, *vocabulary.encode([".it"])]
    assert vocabulary.decode(ids) == "(Heat (1995).it"


def test_decode_sets_a_space_that_a_model_left_out(vocabulary: Vocabulary) -> None:
    item = vocabulary.item_token(vocabulary.item_index("200"))
    ids = [*vocabulary.encode(["seen"]), item, item]
    assert vocabulary.decode(ids) == "seen Heat (1995) Heat (1995)"


def test_decode_with_ids_has_no_number_behind_an_at_but_those_of_items(
    vocabulary: Vocabulary,
) -> None:
    item = vocabulary.item_token(vocabulary.item_index("200"))

    def text(*parts: str | int) -> str:
        ids = [vocabulary.encode([it]) if isinstance(it, str) else [it] for it in parts]
        return vocabulary.decode_with_ids([token for part in ids for token in part])

    assert text("seen ", item, ", ", item, "!") == "seen @200, @200!"
    assert text("seen", item, item) == "seen @200 @200"
    # A model that spells a film, or goes on with a number.
    assert text("@99 @ 99 @@99") == "@ 99 @ 99 @@ 99"
    assert text(item, "0 and @", item, "9") == "@200 0 and @@200 9"
    assert text(vocabulary.rec_id, "a@b", vocabulary.eos_id) == "a@b"


def test_encode_keeps_text_exactly_and_special_spelling_as_text(vocabulary: Vocabulary) -> None:
    for text in ("  a  b\n", "caf\u00e9 \U0001f600 don't", "x<|endoftext|>y", "[REC]"):
        ids = vocabulary.encode([text])
        assert vocabulary.eos_id not in ids
        assert vocabulary.decode(ids) == text


def test_encode_batch_equals_encode_one_by_one(vocabulary: Vocabulary) -> None:
    batch = [["hello", " there"], [], [Mention("99"), Mention("99")], [" ", Mention("1000"), "!"]]
    assert vocabulary.encode_batch(batch) == [vocabulary.encode(pieces) for pieces in batch]
    assert vocabulary.encode(["hello", " there"]) == vocabulary.encode(["hello there"])


def test_decode_drops_end_and_special_tokens(vocabulary: Vocabulary) -> None:
    hello = vocabulary.encode(["hello"])
    specials = [vocabulary.rec_id, vocabulary.gen_id, vocabulary.pad_id, vocabulary.eos_id]
    assert vocabulary.decode([*specials, *hello, *specials]) == "hello"
    with pytest.raises(ValueError, match="token ids must be in"):
        vocabulary.decode([vocabulary.size])


def test_vocabulary_unknown_movie_and_item_are_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="must be in the catalogue, got 5"):
        vocabulary.encode([Mention("5")])
    with pytest.raises(ValueError, match=r"item index must be in \[0, 3\), got -1"):
        vocabulary.item_token(-1)


def test_digest_is_that_of_format_form_and_movies(vocabulary: Vocabulary) -> None:
    base, end = vocabulary.base_size, vocabulary.eos_id
    form = [f"format 3, end of text {end}, base size {base}", form_digest(vocabulary.tokenizer)]
    assert vocabulary.digest == digest_strings(form, ["99", "200", "1000"])
    fewer = build_vocabulary(vocabulary.tokenizer, {"99": "Alien (1979)"})
    assert fewer.digest != vocabulary.digest


def parts_of(vocabulary: Vocabulary) -> tuple[str, str]:
    return vocabulary.catalogue_digest, vocabulary.text_digest


def test_parts_of_the_digest_tell_items_and_text_rules_apart(vocabulary: Vocabulary) -> None:
    catalogue, text = parts_of(vocabulary)
    assert catalogue == digest_strings(["99", "200", "1000"])
    fewer = build_vocabulary(vocabulary.tokenizer, {"99": "Alien (1979)"})
    assert parts_of(fewer) == (digest_strings(["99"]), text)
    plain, prefixing = (BASE_TOKENIZERS[name]() for name in ("plain", "prefixing"))
    of_plain, of_prefixing = (build_vocabulary(it, TITLES) for it in (plain, prefixing))
    assert of_plain.catalogue_digest == of_prefixing.catalogue_digest == catalogue
    assert of_plain.text_digest != of_prefixing.text_digest
    more = BASE_TOKENIZERS["plain"]()
    more.add_tokens(["another"])
    of_more = build_vocabulary(more, TITLES)
    # The same rules over other tokens: the base vocabulary alone differs.
    assert parts_of(of_more) == parts_of(of_plain)
    assert of_more.digest != of_plain.digest


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("model", lambda model: {**model, "merges": model["merges"][::-1]}),
        ("normalizer", lambda _: {"type": "Lowercase"}),
        ("pre_tokenizer", lambda step: {**step, "use_regex": False}),
        ("post_processor", lambda _: None),
        ("decoder", lambda _: {"type": "Fuse"}),
        ("added_tokens", lambda tokens: [{**tokens[0], "rstrip": True}, *tokens[1:]]),
    ],
)
def test_tokenizer_that_makes_other_tokens_of_a_text_is_found(
    vocabulary: Vocabulary, tmp_path: Path, part: str, change: Callable[[Any], Any]
) -> None:
    vocabulary.save(tmp_path)
    path = tmp_path / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, part: change(content[part])}))
    with pytest.raises(ValueError, match="must have digest"):
        Vocabulary.load(tmp_path)


@pytest.mark.parametrize("kind", BASE_TOKENIZERS)
def test_space_after_a_film_is_kept_and_none_is_added(kind: str, tmp_path: Path) -> None:
    build_vocabulary(BASE_TOKENIZERS[kind](), TITLES).save(tmp_path)
    vocabulary = Vocabulary.load(tmp_path)
    film, title = Mention("200"), "Heat (1995)"
    assert vocabulary.encode([film, " is"]) != vocabulary.encode([film, "is"])
    for before, after in (("I liked ", " is funny"), ("I liked ", "is funny"), ("(", ")is it")):
        ids = vocabulary.encode([before, film, after])
        assert vocabulary.decode(ids).lstrip() == f"{before}{title}{after}"
    assert vocabulary.decode(vocabulary.encode([film, " ", film])) == f"{title} {title}"
    assert vocabulary.decode(vocabulary.encode(["is it"])).lstrip() == "is it"
    # The start of a turn is as the tokenizer has it.
    own = vocabulary.tokenizer("is it", add_special_tokens=False)["input_ids"]
    assert vocabulary.encode(["is it"]) == own


def test_tokenizer_that_is_not_saved_whole_is_taken_as_it_is_loaded(tmp_path: Path) -> None:
    words = ["<unk>", "<s>", "</s>", *"\u2581abcdefghijklmnopqrstuvwxyz(),."]
    ids = {word: index for index, word in enumerate([*words, "is"])}
    # Transformers does not save `legacy`.
    tokenizer = LlamaTokenizer(vocab=ids, merges=[("i", "s")], legacy=True)
    loaded = as_loaded(tokenizer)
    assert form_digest(loaded) != form_digest(tokenizer)
    vocabulary = build_vocabulary(loaded, TITLES)
    vocabulary.save(tmp_path)
    again = Vocabulary.load(tmp_path)
    assert again.digest == vocabulary.digest
    for text in (" is it", "is it"):
        assert again.decode(again.encode([Mention("200"), text])) == f"Heat (1995){text}"


def test_tokenizer_that_loses_spaces_is_refused_with_the_reason() -> None:
    backend = Tokenizer(models.WordLevel({"is": 0, "</s>": 1}, unk_token="is"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    with pytest.raises(ValueError, match=r"must keep spaces.* got 'is' back from ' is'"):
        build_vocabulary(tokenizer, TITLES)


def test_save_then_load_gives_the_same_vocabulary(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path)
    vocabulary.save(tmp_path)
    loaded = Vocabulary.load(tmp_path)
    assert loaded.digest == vocabulary.digest
    assert loaded.titles == vocabulary.titles and loaded.eos_id == vocabulary.eos_id
    text = "hello there, x<|endoftext|>y"
    assert loaded.encode([text]) == vocabulary.encode([text])
    assert {path.name for path in tmp_path.iterdir()} == {"vocabulary.json", "tokenizer"}


def test_load_with_changed_items_or_missing_file_is_refused(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold vocabulary\.json"):
        Vocabulary.load(tmp_path)
    vocabulary.save(tmp_path)
    path = tmp_path / "vocabulary.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "movie_ids": ["99", "200", "1001"]}))
    with pytest.raises(ValueError, match="must have digest"):
        Vocabulary.load(tmp_path)
    path.write_text(json.dumps({**content, "format_version": 2}))
    with pytest.raises(ValueError, match="format_version 3 and all keys, got 2"):
        Vocabulary.load(tmp_path)


def test_build_vocabulary_finds_end_of_text_by_name_or_says_so() -> None:
    named = word_tokenizer({"a": 0, "<|endoftext|>": 1, " ": 2})
    assert build_vocabulary(named, TITLES).eos_id == 1
    assert (
        build_vocabulary(word_tokenizer({"a": 0, "b": 1, " ": 2}, eos_token="b"), TITLES).eos_id
        == 1
    )
    with pytest.raises(ValueError, match="must have an end-of-text token"):
        build_vocabulary(word_tokenizer({"a": 0, "b": 1}), TITLES)


def test_build_vocabulary_with_gaps_or_bad_movie_id_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have the ids 0\.\.1"):
        build_vocabulary(word_tokenizer({"a": 0, "<|endoftext|>": 5}), TITLES)
    with pytest.raises(ValueError, match="movie id must be a number, got 'x1'"):
        build_vocabulary(word_tokenizer({"a": 0, "<|endoftext|>": 1, " ": 2}), {"x1": "Alien"})


def test_load_tokenizer_without_one_is_a_single_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokenizer must be a folder or a Hugging Face") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_load_tokenizer_without_a_network_gives_up_at_once_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []

    def unreachable(self: HfApi, name: str, timeout: float) -> None:
        asked.append(timeout)
        raise HTTPError("Name or service not known")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    with pytest.raises(InputError, match="got nobody/nothing: Name or service not known") as caught:
        load_tokenizer("nobody/nothing")
    assert asked == [10.0]
    assert "--tokenizer DIR" in str(caught.value) and "HF_HUB_OFFLINE=1" in str(caught.value)


@pytest.mark.redial
def test_load_tokenizer_from_bare_gpt2_folder_has_its_end_of_text(
    dialogpt_tokenizer_dir: Path,
) -> None:
    vocabulary = build_vocabulary(load_tokenizer(str(dialogpt_tokenizer_dir)), TITLES)
    assert (vocabulary.base_size, vocabulary.eos_id, vocabulary.size) == (50257, 50256, 50263)
    assert vocabulary.encode(["Hello world", Mention("99")]) == [15496, 995, 50257]
    assert vocabulary.encode(["Hello ", Mention("99"), "!"]) == [15496, 220, 50257, 0]
