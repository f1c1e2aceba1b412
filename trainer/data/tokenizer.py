"""The tokenizer of the base tokens: found by name or folder, or trained on a corpus."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

from trainer.common.errors import InputError, first_line
from trainer.data.dialogue import Dialogue

END_OF_TEXT = "<|endoftext|>"
MAX_BASE_TOKENS = 2_000
"""Of a tokenizer that is trained here."""

HUB_TIMEOUT_S = 10.0

TokenizerMaker = Callable[[Sequence[Dialogue], Sequence[str]], PreTrainedTokenizerFast]
"""Train dialogues, titles of the movies -> a tokenizer: loaded by name, or trained on them."""


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A fast tokenizer by the name of a model on the hub, or from a folder on disk.

    A folder may hold tokenizer.json, or only GPT-2's vocab.json and merges.txt. A model that was
    fetched before is taken from the hub's cache, without a look at the network.

    Raises:
        InputError: if there is none, or only on the hub and the network is not available.
    """
    folder = Path(name)
    bare = (folder / "vocab.json").is_file() and not any(
        (folder / known).is_file() for known in ("config.json", "tokenizer_config.json")
    )
    # AutoTokenizer finds no class for a folder that holds vocab.json and merges.txt alone.
    kind = GPT2Tokenizer if bare else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(name, local_files_only=True)
    except Exception as error:
        # A broken file makes it raise whatever its code happens to stumble over.
        if folder.is_dir():
            raise InputError(
                f"tokenizer must be a folder or a Hugging Face model, got {name}, which does not "
                f"hold tokenizer.json, or vocab.json and merges.txt ({first_line(error)}). "
                "Name a folder that does (--tokenizer DIR)."
            ) from error
        tokenizer = _from_hub(name)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(
            f"tokenizer must have a fast version, got {type(tokenizer).__name__} from {name}."
        )
    return tokenizer


def _from_hub(name: str) -> Any:
    try:
        # Told at once; the library itself tries again for a minute.
        HfApi().model_info(name, timeout=HUB_TIMEOUT_S)
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, HTTPError) as error:
        raise InputError(
            "tokenizer must be a folder or a Hugging Face model, cached or within reach, got "
            f"{name}: {first_line(error)}. Name a folder with tokenizer.json, or with vocab.json "
            "and merges.txt, such as dialogpt-tokenizer (--tokenizer DIR); or fetch the model on "
            "another machine, copy its cache here (HF_HOME), and set HF_HUB_OFFLINE=1."
        ) from error


def as_loaded(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer as it comes back from its saved form: some classes do not save all of it.

    What is prepared must be tokenized as all who load the vocabulary do it.
    """
    with tempfile.TemporaryDirectory(prefix="tokenizer.") as folder:
        tokenizer.save_pretrained(folder)
        return load_tokenizer(folder)


def pretrained_tokenizer(name: str) -> TokenizerMaker:
    """`load_tokenizer` of this name, whatever the corpus."""
    return lambda dialogues, titles: load_tokenizer(name)


def train_tokenizer(
    dialogues: Sequence[Dialogue], titles: Sequence[str]
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most MAX_BASE_TOKENS tokens, fitted on the texts and the titles."""
    pieces = (piece for dialogue in dialogues for piece in dialogue.pieces())
    texts = [piece for piece in pieces if isinstance(piece, str)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_BASE_TOKENS,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *(f" {title}" for title in titles)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT
    )


def end_of_text_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id of eos_token, else of <|endoftext|>; ValueError if there is neither."""
    eos_id = tokenizer.eos_token_id
    if isinstance(eos_id, int):
        return eos_id
    eos_id = tokenizer.get_vocab().get(END_OF_TEXT)
    if eos_id is None:
        raise InputError(
            f"tokenizer must have an end-of-text token, got neither eos_token nor {END_OF_TEXT}. "
            "Set eos_token in tokenizer_config.json."
        )
    return eos_id


def check_base_size(tokenizer: PreTrainedTokenizerFast, base_size: int) -> None:
    """Raise InputError unless the tokenizer has exactly the ids 0..base_size - 1."""
    ids = tokenizer.get_vocab().values()
    if len(tokenizer) != base_size or max(ids, default=-1) != base_size - 1:
        raise InputError(
            f"tokenizer must have the ids 0..{base_size - 1}, got {len(tokenizer)} tokens with "
            f"largest id {max(ids, default=-1)}. Use a tokenizer without gaps, or prepare again."
        )
