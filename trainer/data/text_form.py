"""How a tokenizer turns text into tokens: its digest, and its form for text that goes on.

SentencePiece-like tokenizers (Metaspace, or a normalizer that prepends) put a space in front of
every text, and their decoders take it away. At the start of a turn that is as their models learnt
it; after an item it would make " is" and "is" the same tokens, and lose the space. So text after an
item is tokenized by the same tokenizer without that rule.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from protos.fingerprint import digest_strings
from trainer.common.errors import InputError

PARTS = ("added_tokens", "normalizer", "pre_tokenizer", "model", "post_processor", "decoder")
"""Of tokenizer.json: all but truncation and padding, which an encoding may set."""
RULES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
"""Of these, what cuts text up and joins it; the others are the tokens themselves."""
NEVER = {"prepend_scheme": "never"}


def form_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hex SHA-256 of everything that decides how text becomes tokens, and tokens text."""
    return _digest(tokenizer, PARTS)


def rules_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hex SHA-256 of the text rules alone: two tokenizers may share them and have other tokens."""
    return _digest(tokenizer, RULES)


def continuing(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer for text that goes on after an item: no space is added or taken away."""
    content = _content(tokenizer)
    changed = {
        **content,
        "normalizer": _edit(content["normalizer"], _no_prefix),
        "pre_tokenizer": _edit(content["pre_tokenizer"], _no_prefix),
        "decoder": _edit(content["decoder"], _no_strip),
    }
    if changed == content:
        return tokenizer
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(changed)), eos_token=tokenizer.eos_token
    )


def puts_space_in_front(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokenizer puts a space in front of a text, which `continuing` does not."""
    content = _content(tokenizer)
    parts = [content["normalizer"], content["pre_tokenizer"]]
    return any(_edit(part, _no_prefix) != part for part in parts)


def check_spaces(tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise InputError unless text that goes on has other tokens with a space in front.

    `tokenizer` is one that `continuing` returned.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    word = next((token for token in tokens if token.isascii() and token.isalpha()), "is")
    for text in (word, f" {word}"):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if back != text:
            raise InputError(
                f"tokenizer must keep spaces, so that films can stand in the text, got {back!r} "
                f"back from {text!r}. Use one that does, such as GPT-2's or Llama's."
            )


Edit = Callable[[dict[str, Any]], dict[str, Any] | None]


def _edit(part: dict[str, Any] | None, edit: Edit) -> dict[str, Any] | None:
    """A part of tokenizer.json with its steps edited; None: the step is left out."""
    if part is None:
        return None
    for key, value in part.items():
        if key in ("normalizers", "pretokenizers", "decoders"):
            steps = [_edit(step, edit) for step in value]
            return {**part, key: [step for step in steps if step is not None]}
    return edit(part)


def _no_prefix(step: dict[str, Any]) -> dict[str, Any] | None:
    kind = step["type"]
    if kind == "Prepend":
        return None
    if kind == "Metaspace":
        return {**step, **NEVER}
    return {**step, "add_prefix_space": False} if kind == "ByteLevel" else step


def _no_strip(step: dict[str, Any]) -> dict[str, Any] | None:
    if step["type"] == "Strip" and step["content"] == " ":
        return None
    return {**step, **NEVER} if step["type"] == "Metaspace" else step


def _digest(tokenizer: PreTrainedTokenizerFast, parts: Sequence[str]) -> str:
    content = _content(tokenizer)
    return digest_strings([json.dumps(content[part], sort_keys=True) for part in parts])


def _content(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())
