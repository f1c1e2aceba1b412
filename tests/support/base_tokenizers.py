"""Tokenizers of each kind that a base vocabulary may have, trained on a few sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


def metaspace_tokenizer(scheme: Literal["always", "first", "never"]) -> PreTrainedTokenizerFast:
    """As SentencePiece does it: a space is part of the word after it, and one comes first."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)  # pyright: ignore
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)  # pyright: ignore
    return train_bpe(backend)


def prepending_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama has it: a normalizer puts the space in front, and the decoder takes one away."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    backend.normalizer = normalizers.Sequence(steps)  # pyright: ignore
    backend.decoder = decoders.Sequence(  # pyright: ignore
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return train_bpe(backend)


def prefixing_tokenizer() -> PreTrainedTokenizerFast:
    """As RoBERTa has it: byte-level, with a space in front of every text."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # pyright: ignore
    backend.decoder = decoders.ByteLevel()  # pyright: ignore
    return train_bpe(backend)


def train_bpe(backend: Tokenizer) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], show_progress=False
    )
    texts = ["I liked it is funny", "have you seen it (is it funny?)", "this is so is"] * 3
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """As GPT-2 has it: byte-level, and nothing in front."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    backend.decoder = decoders.ByteLevel()  # pyright: ignore
    return train_bpe(backend)


BASE_TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "metaspace always": lambda: metaspace_tokenizer("always"),
    "metaspace first": lambda: metaspace_tokenizer("first"),
    "metaspace never": lambda: metaspace_tokenizer("never"),
    "prepending": prepending_tokenizer,
    "prefixing": prefixing_tokenizer,
    "plain": plain_tokenizer,
}
