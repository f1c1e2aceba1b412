"""The joint vocabulary as one tokenizer that `transformers` loads: words, films, control tokens.

A film is spelled as in a chat, its title in double quotes: `"Titanic (1997)"`. Where that is not
enough, its id follows: `"It @4711"` for a title of one word, which people quote for other reasons,
and `"Titanic (1997) @4711"` for all but the first of the films that share a title. No other text
becomes a film. Film ids decode to the bare title.

The tokenizer sees a whole prompt at once, and cannot tell where a turn of text starts. So it never
puts a space in front of text, even where the base tokenizer does: the prompt has that space.
"""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders

from trainer.common.atomic import write_json, write_text
from trainer.data.text_form import continuing
from trainer.data.vocabulary import Vocabulary

REC, GEN, PAD = "[REC]", "[GEN]", "<pad>"
# Where a title starts and ends in text that is being decoded; private to Unicode's users.
START, END = "\ue000", "\ue001"
AFTER_TEXT = rf"(?<=[\p{{L}}\p{{N}}),.!?:;]){START}"
"""A title that a model has glued to the text before it, as `Vocabulary.decode` has it."""
ID_AT_END = re.compile(r" @[0-9]+\Z")


def write_joint_tokenizer(folder: Path, vocabulary: Vocabulary, *, max_tokens: int) -> None:
    """Write tokenizer.json and tokenizer_config.json; `max_tokens` is what the model takes."""
    rec, gen, pad = control_tokens(vocabulary)
    eos = _end_of_text(vocabulary)
    config = {
        # Not the base tokenizer's own class, which would build itself anew without the films.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": eos,
        "eos_token": eos,
        "pad_token": pad,
        "additional_special_tokens": [rec, gen],
        "padding_side": "left",
        "model_max_length": max_tokens,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    write_text(folder / "tokenizer.json", joint_tokenizer(vocabulary).to_str())
    write_json(folder / "tokenizer_config.json", config)


def joint_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """The base tokenizer with a token for each film and control token, at their ids."""
    base = vocabulary.tokenizer
    tokenizer = Tokenizer.from_str(continuing(base).backend_tokenizer.to_str())
    eos = _end_of_text(vocabulary)
    tokenizer.add_special_tokens([AddedToken(eos, normalized=False, special=True)])
    films = film_spellings(vocabulary)
    tokenizer.add_tokens([AddedToken(it, normalized=False) for it in films])
    control = [AddedToken(it, normalized=False) for it in control_tokens(vocabulary)]
    tokenizer.add_special_tokens(control)
    assert tokenizer.get_vocab_size() == vocabulary.size
    assert tokenizer.token_to_id(str(control[-1].content)) == vocabulary.pad_id
    # A prompt starts as the text does: nothing is put before or behind it.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]
    # Not that of `continuing`: at the start of a response the base decoder takes its space away.
    decoder = _decoder(base.backend_tokenizer.decoder)
    tokenizer.decoder = decoder  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def film_spellings(vocabulary: Vocabulary) -> list[str]:
    """How each film is spelled in text, in the order of the items; all differ."""
    taken = set(vocabulary.tokenizer.get_vocab())
    spellings = []
    for movie_id, title in zip(vocabulary.movie_ids, vocabulary.titles, strict=True):
        spelling = f'"{title}"'
        # A spelling has a space inside, which no word of the base vocabulary has.
        if spelling in taken or " " not in title.strip() or ID_AT_END.search(title):
            spelling = f'"{title} @{movie_id}"'
        spellings.append(spelling)
        taken.add(spelling)
    return spellings


def control_tokens(vocabulary: Vocabulary) -> tuple[str, str, str]:
    """[REC], [GEN] and <pad>; with "_" behind where the base vocabulary has one of that name."""
    taken = vocabulary.tokenizer.get_vocab()
    return _free(REC, taken), _free(GEN, taken), _free(PAD, taken)


def _end_of_text(vocabulary: Vocabulary) -> str:
    token = vocabulary.tokenizer.convert_ids_to_tokens(vocabulary.eos_id)
    assert isinstance(token, str)
    return token


def _free(token: str, taken: Container[str]) -> str:
    while token in taken:
        token += "_"
    return token


def _decoder(base: decoders.Decoder | None) -> decoders.Decoder:
    """Film tokens without quotes and id; a space before those that are glued to a word."""
    marked = [
        decoders.Replace(Regex(r'\A"(?=[\s\S]* [\s\S]*"\z)'), START),
        decoders.Replace(Regex(rf'\A{START}[\s\S]*?\K(?: @[0-9]+)?"\z'), END),
    ]
    plain = [
        decoders.Fuse(),
        decoders.Replace(END, ""),
        decoders.Replace(Regex(AFTER_TEXT), " "),
        decoders.Replace(START, ""),
    ]
    return decoders.Sequence([*marked, *([base] if base is not None else []), *plain])
